from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from labkit import record
from labkit.errors import LabkitError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456789, "0.123457"),
        (3, "3"),
        (True, "True"),
        ("tiny", "tiny"),
        ([1, 0.5, "a"], "[1, 0.5, a]"),
        ((1, 2), "[1, 2]"),
        (np.float32(0.5), "0.5"),
        (np.array([1, 2]), "[1, 2]"),
        (torch.tensor(2.5), "2.5"),
        ([torch.tensor(1), np.int64(2)], "[1, 2]"),
    ],
)
def test_printed_outside_a_notebook(
    value: object, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a number", value)
    assert capsys.readouterr().out == f"a number = {text}\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", float("nan"), "finite"),
        ("x", torch.tensor(float("inf")), "finite"),
        ("x", {"a": 1}, "dict"),
        ("x", None, "NoneType"),
        ("x", [[1]], "list"),
        ("x", np.zeros((2, 2)), "list"),
        ("x", list(range(65)), "at most 64"),
        ("", 1, "name"),
        ("a\nb", 1, "name"),
        ("x" * 81, 1, "name"),
        (3, 1, "name"),
    ],
)
def test_refused(name: Any, value: object, message: str) -> None:
    with pytest.raises(LabkitError, match=message):
        record(name, value)
