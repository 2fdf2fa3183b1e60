"""The schema of harvest.json: files of earlier versions stay readable, and are written the same."""

from __future__ import annotations

import json

import pytest

from labkit.errors import LabkitError
from labkit.grading.execution.harvest import FailedLine, Harvest, read_harvest
from labkit.grading.states import CellStatus, ProbeStatus, State

# As `labkit grade` writes it; the value with half of a surrogate pair came out of a sandbox.
CONTENT = {
    "submission": "ada.ipynb",
    "content_hash": "c0ffee",
    "assignment": "iou",
    "assignment_hash": "beef",
    "state": "cell-error",
    "cells": [
        {
            "exercise": "",
            "role": "setup",
            "status": "ok",
            "ename": None,
            "seconds": 0.2,
            "failed": [],
            "ran": 1,
        },
        {
            "exercise": "area",
            "role": "",
            "status": "error",
            "ename": "SyntaxError",
            "seconds": 0,
            "failed": [
                {"line": 3, "text": "print 'x'", "ename": "SyntaxError", "message": "Missing"},
                {"line": 9, "text": "import x", "ename": None},
            ],
            "ran": 2,
        },
    ],
    "probes": {
        "values": {
            "status": "answered",
            "ename": None,
            "answers": [{"value": "\ud800", "arrays": ""}, {"raised": "KeyError"}],
            "seconds": 0.013,
            "inputs": "abad1dea",
        },
        "best": {"status": "not-run", "ename": None, "answers": [], "seconds": 0.0},
    },
    "questions": {"why": "So."},
    "message": "exercise area: raised SyntaxError",
    "isolation": "namespaces",
    "forbidden": ["torchvision.ops.box_iou"],
    "with_solutions": {
        "best": {"status": "raised", "ename": "KeyError", "answers": [], "seconds": 1.5}
    },
    "doubts": {"how": "its cell is gone"},
    "remarks": {
        "area": {
            "syntax": {"line": 3, "text": "print 'x'", "message": "Missing"},
            "defines": ["Area"],
            "takes": {},
        },
        "best": {
            "defines": [],
            "takes": {"best": {"names": ["a"], "required": ["a"], "any": False}},
        },
    },
    "language": "R",
    "environment": {"python": "3.12.1", "torch": "2.10"},
    "seconds": {"cells": 0.2, "probes": 0.013, "total": 3.5},
    "grader_mb": 12.5,
    "version": 1,
}


def test_a_file_is_read_and_written_without_a_change(tmp_path):
    (tmp_path / "harvest.json").write_text(json.dumps(CONTENT))
    harvest = read_harvest(tmp_path)
    assert harvest.state is State.CELL_ERROR
    assert harvest.cells[1].status is CellStatus.ERROR
    assert harvest.cells[1].failed[1] == FailedLine(9, "import x", None)
    assert harvest.probes["best"].status is ProbeStatus.NOT_RUN
    assert harvest.probes["best"].inputs is None
    assert harvest.remarks["best"].syntax is None
    harvest.write(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "harvest.json").read_text()) == CONTENT


def test_the_oldest_files_have_fewer_fields(tmp_path):
    names = ("submission", "content_hash", "assignment", "assignment_hash", "state")
    content = {name: CONTENT[name] for name in (*names, "cells", "questions")} | {"probes": {}}
    (tmp_path / "harvest.json").write_text(json.dumps(content))
    harvest = read_harvest(tmp_path)
    assert (harvest.version, harvest.language, harvest.remarks) == (1, "", {})


def test_nothing_is_written_that_json_cannot_hold(tmp_path):
    harvest = Harvest("a", "b", "c", "d", State.OK, [], {}, {}, seconds={"total": float("nan")})
    with pytest.raises(ValueError, match="Out of range float"):
        harvest.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_another_version_are_refused(tmp_path):
    with pytest.raises(LabkitError, match=r"no harvest\.json; grade this submission first"):
        read_harvest(tmp_path)
    (tmp_path / "harvest.json").write_text(json.dumps(CONTENT | {"version": 2}))
    with pytest.raises(LabkitError, match=r"harvest\.json: .* another version of labkit"):
        read_harvest(tmp_path)
