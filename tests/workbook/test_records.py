from __future__ import annotations

import json
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
import torch

from labkit import record
from labkit.errors import LabkitError
from labkit.workbook.records import RECORD_MIME, RECORDING, format_value

VALUES: list[tuple[object, object, str]] = [
    (0.123456789, 0.123456789, "0.123457"),
    (3, 3, "3"),
    (True, True, "True"),
    ("tiny", "tiny", "tiny"),
    ([1, 0.5, "a"], [1, 0.5, "a"], "[1, 0.5, a]"),
    ((1, 2), [1, 2], "[1, 2]"),
    (np.float32(0.5), 0.5, "0.5"),
    (np.array([1, 2]), [1, 2], "[1, 2]"),
    (torch.tensor(2.5), 2.5, "2.5"),
    ([torch.tensor(1), np.int64(2)], [1, 2], "[1, 2]"),
]


@pytest.mark.parametrize(("value", "kept", "text"), VALUES)
def test_kept_for_the_report(
    value: object, kept: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setenv(RECORDING, "1")
    monkeypatch.setattr("IPython.display.display", lambda data, raw: sent.append((data, raw)))
    record("a number", value)
    assert sent == [({RECORD_MIME: {"name": "a number", "value": kept}}, True)]
    json.dumps(sent)
    assert format_value(kept) == text


def test_nothing_is_shown_to_a_reader() -> None:
    """In a kernel that `labkit run` did not start: no output at all, not even an empty one."""
    cells = ["import labkit\nlabkit.record('a', 1)", "print('x')\nlabkit.record('b', [1.5])"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    assert notebook.cells[0].outputs == []
    assert [output.text for output in notebook.cells[1].outputs] == ["x\n"]


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
