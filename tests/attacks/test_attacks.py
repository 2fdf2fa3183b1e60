"""Hostile submissions earn nothing, or what is right; in bounded time and memory; and the grader
and the honest ones beside them do not notice."""

from __future__ import annotations

import json

import pytest
from attacked import HONEST, files
from attacks import ANSWERS, ATTACKS, ESCAPES

LONGEST = 60 + 30  # seconds: the limit of the assignment, and what starting and ending may take
MOST_MB = 100
# A message without an end is not seen before it ends: what stops it is the harvest's own limit, 208
# with this assignment, and some come between two looks.
ENDLESS_MB = {"message of endless parts": 300}

HONEST_FILES = [name for name in files() if name.startswith("file: honest")]
BAD_FILES = [name for name in files() if not name.startswith("file: honest")]


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(batch, name):
    attack, course = ATTACKS[name], batch.courses[f"attack: {name}"]
    assert course.harvest["state"] in attack.states, course.harvest["message"]
    assert course.points["double"] == attack.double
    assert course.points["total"] in attack.total
    assert course.harvest["isolation"].startswith("namespaces")
    # It ended, which an attack that was cut short by the test would not have.
    assert course.seconds < LONGEST
    assert course.harvest["grader_mb"] < ENDLESS_MB.get(name, MOST_MB)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_that_is_none(batch, name):
    course = batch.courses["answers"]
    assert course.points[name] == 0
    assert course.reasons[name]


def test_answers_are_asked_to_the_last(batch):
    course = batch.courses["answers"]
    assert course.harvest["state"] == "ok"
    statuses = {probe["status"] for probe in course.harvest["probes"].values()}
    assert statuses <= {"answered", "raised", "refused"}


@pytest.mark.parametrize("name", ESCAPES)
def test_escape(batch, name):
    course = batch.courses["escapes"]
    cells = json.loads(course.shown)["cells"]
    printed = next(
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    assert name not in json.loads(printed)
    assert course.points == {"double": 0, "total": 2}


@pytest.mark.parametrize("name", BAD_FILES)
def test_file_that_is_no_notebook(batch, name):
    course = batch.courses[name]
    assert course.harvest["state"] == "bad-notebook"
    assert course.harvest["message"]
    assert course.points == {"double": 0, "total": 0}


@pytest.mark.parametrize("name", [*(f"honest: {n}" for n in range(len(HONEST))), *HONEST_FILES])
def test_honest_submission_among_them(batch, name):
    course = batch.courses[name]
    assert course.points == {"double": 4, "total": 2}, course.reasons
    assert course.harvest["state"] == "ok"


def test_nothing_left_behind(batch):
    assert batch.sleepers == []
    assert batch.folders_left == []
    assert batch.connections == 0
    assert batch.canary == "alive"


def test_nothing_of_theirs_is_printed_by_the_grader(batch):
    assert "x" * 1000 not in batch.grader_output
    assert "Traceback" not in batch.grader_output


def test_probes_do_not_enter_the_notebook(batch):
    honest = [course for name, course in batch.courses.items() if "honest" in name]
    assert len(honest) == len(HONEST) + len(HONEST_FILES)
    for course in honest:
        assert not any(word in course.shown for word in ("labkit.answer", "secret", "truth"))
