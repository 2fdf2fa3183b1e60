"""The one exception."""

from labkit.errors import LabkitError


def test_a_message_can_always_be_printed():
    assert str(LabkitError("a \ud800 b é ☃")) == "a \\ud800 b é ☃"
    str(LabkitError("a \ud800")).encode()
