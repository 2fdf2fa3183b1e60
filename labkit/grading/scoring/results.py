"""What a submission earned, by probe and by question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbeScore:
    """What one probe earned.

    Attributes:
        name, exercise, function: as in the probe.
        points: earned.
        out_of: possible.
        right: cases that were right; None where the probe is scored over all cases at once.
        cases: cases asked.
        reasons: what went wrong, most frequent first; empty when everything was right.
        hint: the instructor's, shown to students who did not get all points.
        given: the exercises whose solutions stood in for the student's answers.
    """

    name: str
    exercise: str
    function: str
    points: float
    out_of: float
    right: int | None
    cases: int
    reasons: tuple[str, ...] = ()
    hint: str = ""
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionScore:
    """A free-text answer, and the points a person gave; None before anybody read it.

    Attributes:
        doubt: why there may be an answer although none was found; a person has to look.
    """

    name: str
    answer: str
    points: float | None
    out_of: float
    comment: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Score:
    """What one submission earned and why.

    Attributes:
        submission: the submission's name.
        content_hash: of the submission's file.
        state: how its run ended, in harvest's words.
        message: what harvest says about it.
        isolation: how the run was sandboxed.
        probes, questions: in the assignment's order.
        cells: exercise, status and exception's class of each answer cell that ran.
        seconds: of the whole submission.
        flags: what a person should look at.
        language: what the notebook says it is written in, where that is not Python.
    """

    submission: str
    content_hash: str
    state: str
    message: str
    isolation: str
    probes: tuple[ProbeScore, ...]
    questions: tuple[QuestionScore, ...]
    cells: tuple[dict[str, Any], ...]
    seconds: float
    flags: tuple[str, ...]
    language: str = ""

    @property
    def points(self) -> float:
        """Earned so far; questions that nobody has read count nothing."""
        marked = sum(question.points or 0 for question in self.questions)
        return sum(probe.points for probe in self.probes) + marked

    @property
    def out_of(self) -> float:
        """Possible."""
        probes = sum(probe.out_of for probe in self.probes)
        return probes + sum(question.out_of for question in self.questions)

    @property
    def unread(self) -> int:
        """How many questions wait for a person."""
        return sum(question.points is None for question in self.questions)
