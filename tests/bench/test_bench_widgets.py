"""The figures of `labkit bench widgets`, from times that are given."""

import json
import shutil

import pytest

from labkit.bench import widgets
from labkit.errors import LabkitError


def test_the_percentile_is_what_counts():
    times = [10.0] * 94 + [80.0] * 6
    found = widgets.response("hover", times, 50.0)
    assert found.median_ms == 10.0
    assert found.p95_ms == 80.0
    assert not found.met
    assert widgets.response("hover", [10.0] * 96 + [80.0] * 4, 50.0).met
    assert json.loads(json.dumps(found.to_json()))["met"] is False


def test_without_a_browser_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(LabkitError, match="labkit doctor"):
        widgets._chromium()
