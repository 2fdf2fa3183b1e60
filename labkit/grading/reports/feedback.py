"""The feedback page of a student: points, and what went wrong.

A page never contains a hidden input, a reference answer or a rubric: its sentences come from
:mod:`labkit.grading.scoring.comparison`, from the state of the run and from the student.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.reports.gradebook import Entry
from labkit.grading.reports.pages import render
from labkit.grading.scoring import wording
from labkit.grading.scoring.results import ProbeScore, Score
from labkit.grading.states import State
from labkit.system.atomic_write import atomic_write

FOLDER = "feedback"


@dataclass(frozen=True)
class Notice:
    """A notice about the run as a whole."""

    title: str
    text: str
    bad: bool = True


REMAINING = "Everything else has been graded."
NOTICES = {
    State.CELL_ERROR: Notice(
        "A line of your notebook failed.",
        f"{REMAINING} Run “Restart kernel and run all cells” before you submit.",
        bad=False,
    ),
    State.CELL_TIMEOUT: Notice("A cell ran too long and was stopped.", REMAINING),
    State.OVER_LIMIT: Notice(
        "Your notebook used too much memory, time or disk space.", f"It was stopped. {REMAINING}"
    ),
    State.FLOOD: Notice(
        "Your notebook printed or displayed too much.", f"It was stopped. {REMAINING}"
    ),
    State.DEAD_KERNEL: Notice(
        "Python stopped while your notebook ran.",
        f"It ran out of memory, called exit, or crashed. {REMAINING}",
    ),
    State.PROTOCOL_VIOLATION: Notice(
        "Your notebook interfered with the grading.",
        "A person will check it before the points count.",
    ),
    State.BAD_NOTEBOOK: Notice(
        "Your file could not be read as a notebook.",
        "Submit the .ipynb file that JupyterLab saves.",
    ),
    State.INFRASTRUCTURE_ERROR: Notice(
        "The grading failed; your submission is not the cause.",
        "It will be graded again.",
        bad=False,
    ),
}


EXPLAINED = {
    State.BAD_NOTEBOOK,
    State.OVER_LIMIT,
    State.FLOOD,
    State.CELL_TIMEOUT,
    State.DEAD_KERNEL,
}
"""States whose message the student reads too."""


def write_feedback(entries: Sequence[Entry], loaded: LoadedAssignment, folder: Path) -> list[Path]:
    """Write ``feedback/STUDENT.html`` for every student into a grading's folder.

    Returns:
        The pages, in the order of the entries.

    Raises:
        LabkitError: a page cannot be written.
    """
    written = []
    for entry in entries:
        path = folder / FOLDER / page_name(entry.student.key)
        with atomic_write(path) as temporary:
            temporary.write_text(feedback_page(entry, loaded), encoding="utf-8")
        written.append(path)
    return written


def page_name(student: str) -> str:
    """Return the file name of a student's page, valid for any name of a student."""
    plain = re.sub(r"[^\w.@ -]", "_", student).strip(". ")[:80]
    if plain != student or not plain:
        # Two names may become equal when characters are replaced.
        plain += "-" + hashlib.sha256(student.encode(errors="replace")).hexdigest()[:8]
    return f"{plain}.html"


def feedback_page(entry: Entry, loaded: LoadedAssignment) -> str:
    """Return a student's page."""
    score = entry.score
    out_of = loaded.assignment.points
    unread = (
        [question.out_of for question in score.questions if question.points is None]
        if score
        else []
    )
    return render(
        "feedback.html.j2",
        title=loaded.assignment.title,
        entry=entry,
        score=score,
        out_of=out_of,
        share=min(1.0, (entry.points or 0.0) / out_of),
        waiting=sum(unread) * entry.kept,
        notice=NOTICES.get(score.state) if score else None,
        reason=score.message if score and score.state in EXPLAINED else "",
        exercises=_exercises(score, loaded) if score else [],
    )


@dataclass(frozen=True)
class _Exercise:
    name: str
    probes: list[ProbeScore]
    cell: str

    @property
    def points(self) -> float:
        return sum(probe.points for probe in self.probes)

    @property
    def out_of(self) -> float:
        return sum(probe.out_of for probe in self.probes)


def _exercises(score: Score, loaded: LoadedAssignment) -> list[_Exercise]:
    exercises = []
    for name in loaded.exercises:
        probes = [probe for probe in score.probes if probe.exercise == name]
        if probes:
            exercises.append(_Exercise(name, probes, _cell(name, score)))
    return exercises


def _cell(exercise: str, score: Score) -> str:
    """Say what went wrong when the cells of the exercise ran."""
    ours = (cell for cell in score.cells if cell.exercise == exercise)
    return " ".join(filter(None, map(wording.failed_cell, ours)))
