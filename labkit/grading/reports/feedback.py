"""One page for each student: what was right, and what went wrong in which respect.

A page never holds a hidden input, a reference's answer or a rubric: its words come from
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
    """What happened to the run as a whole."""

    title: str
    text: str
    bad: bool = True


REMAINING = "Everything that could be graded nevertheless has been graded."
NOTICES = {
    State.CELL_ERROR: Notice(
        "A line of your notebook failed.",
        f"{REMAINING} Try “Restart kernel and run all cells” before you hand in.",
        bad=False,
    ),
    State.CELL_TIMEOUT: Notice("A cell ran too long and was stopped.", REMAINING),
    State.OVER_LIMIT: Notice(
        "Your notebook used more memory, time or disk than it may.", f"It was stopped. {REMAINING}"
    ),
    State.FLOOD: Notice(
        "Your notebook printed or showed far too much.", f"It was stopped. {REMAINING}"
    ),
    State.DEAD_KERNEL: Notice(
        "Python came to an end while your notebook ran.",
        f"It was out of memory, called exit, or crashed. {REMAINING}",
    ),
    State.PROTOCOL_VIOLATION: Notice(
        "Your notebook disturbed the grading.",
        "A person will look at it before the points count.",
    ),
    State.BAD_NOTEBOOK: Notice(
        "Your file could not be read as a notebook of this assignment.",
        "Hand in the .ipynb file as JupyterLab saves it.",
    ),
    State.INFRASTRUCTURE_ERROR: Notice(
        "Something failed on the graders' side.", "Your submission will be graded again.", bad=False
    ),
}


EXPLAINED = {
    State.BAD_NOTEBOOK,
    State.OVER_LIMIT,
    State.FLOOD,
    State.CELL_TIMEOUT,
    State.DEAD_KERNEL,
}
"""States whose message, in the grader's own words, is the student's business too."""


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
    """Return the file name of a student's page, safe for whatever the student is called."""
    plain = re.sub(r"[^\w.@ -]", "_", student).strip(". ")[:80]
    if plain != student or not plain:
        # Two names may become one when characters are replaced.
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
    """Say what went wrong when the exercise's own cells ran."""
    ours = (cell for cell in score.cells if cell.exercise == exercise)
    return " ".join(filter(None, map(wording.failed_cell, ours)))
