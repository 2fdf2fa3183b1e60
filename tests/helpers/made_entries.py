"""A class of students with all kinds of submissions, scored from made harvests."""

import json

import numpy as np
from helpers.made_assignments import cases_of, make_harvest, right_answers

from labkit.grading.execution.codec import encode
from labkit.grading.intake.student import Student
from labkit.grading.reports.gradebook import Entry
from labkit.grading.scoring.score import score

ANSWER = "def double(x):\n    total = x + x\n    return [total][0] if True else None\n"


def executed(folder, source):
    """Write what a sandboxed run leaves of the exercise ``double``."""
    cell = {"cell_type": "code", "metadata": {"labkit": {"exercise": "double"}}, "source": source}
    (folder / "executed.ipynb").write_text(json.dumps({"cells": [cell]}), encoding="utf-8")


def make_entries(tmp_path, loaded):
    """Return entries: right, partly right, copied, broken, not graded."""
    out = tmp_path / "out"
    entries = []

    def add(key, answers, content, source="", student=None, entry=None, **harvest):
        folder = out / "harvest" / content
        make_harvest(folder, loaded, answers, content=content, submission=key, **harvest)
        if source:
            executed(folder, source)
        student = Student(key, **(student or {}))
        given = {"file": f"{key}.ipynb", "harvest": folder, **(entry or {})}
        entries.append(Entry(student, score(folder, loaded), **given))

    add(
        "ada",
        None,
        "a1",
        ANSWER,
        {"name": "Lovelace, Ada", "canvas_id": "11", "moodle_id": "901"},
        questions={"why": "Since <b>2 > 1</b>, & so on.\n{{ 7 * 7 }}"},
    )
    partly = right_answers(loaded, "b2")
    partly["values"][0] = encode(np.zeros((2, 3)))
    partly["values"][1] = encode(cases_of(loaded, "values", "b2")[1]["x"] * 2.5)
    partly["all-or-nothing"][2] = {"raised": "IndexError"}
    add(
        "bob",
        partly,
        "b2",
        "# my own work\n" + ANSWER.replace("total = x + x", "total = (x + x)"),
        {"name": "Bob Ö. Ç"},
        {
            "late": "2 days late, 20 % off",
            "kept": 0.8,
            "notes": ("an earlier one of 3 May",),
        },
        questions={},
        seconds={"total": 48.25},
    )
    add(
        "=EVIL()",
        {},
        "c3",
        student={"name": "<script>alert(1)</script>", "canvas_id": "13"},
        questions={"why": "</div><script>alert(2)</script>"},
        state="protocol-violation",
        message="an answer that nobody asked for",
    )
    add(
        "dan {x} ü",
        {
            name: {"status": "not-run", "answers": []}
            for name in ("values", "all-or-nothing", "truth")
        },
        "d4",
        questions={},
        state="dead-kernel",
        isolation="landlock",
        message="the kernel died",
        cells=[{"exercise": "double", "status": "error", "ename": "NameError", "seconds": 0.2}],
    )
    entries.append(Entry(Student("eve"), None, file="eve.zip", problem="the zip file is damaged"))
    return entries
