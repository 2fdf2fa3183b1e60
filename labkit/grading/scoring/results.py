"""Scores of a submission, its probes and its questions."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.grading.execution.harvest import CellRun
from labkit.grading.states import State


@dataclass(frozen=True)
class ProbeScore:
    """The score of one probe.

    Attributes:
        name, exercise, function: as in the probe.
        points: earned.
        out_of: possible.
        right: cases with a right answer; None where the probe scores all cases together.
        cases: cases called.
        reasons: what went wrong, most frequent first; empty when everything was right.
        hint: the instructor's, of the recognised mistake or of the probe, shown to students who
            did not get all points.
        given: the exercises whose solutions replaced the student's answers.
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
    """A free-text answer and its points; None until a person has marked it.

    Attributes:
        doubt: why there may be an answer although none was found; a person has to check.
    """

    name: str
    answer: str
    points: float | None
    out_of: float
    comment: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Score:
    """The score of one submission, with reasons.

    Attributes:
        submission: the name of the submission.
        content_hash: SHA-256 of the submitted file.
        state: how its run ended.
        message: one sentence about the state.
        isolation: the level of isolation of the kernel.
        probes, questions: in the order of the assignment.
        cells: the cells that were executed.
        seconds: of the whole submission.
        flags: what a person should check.
        language: the language of the notebook, where that is not Python.
    """

    submission: str
    content_hash: str
    state: State
    message: str
    isolation: str
    probes: tuple[ProbeScore, ...]
    questions: tuple[QuestionScore, ...]
    cells: tuple[CellRun, ...]
    seconds: float
    flags: tuple[str, ...]
    language: str = ""

    @property
    def points(self) -> float:
        """Points earned so far; unread questions count 0."""
        marked = sum(question.points or 0 for question in self.questions)
        return sum(probe.points for probe in self.probes) + marked

    @property
    def out_of(self) -> float:
        """Points possible."""
        probes = sum(probe.out_of for probe in self.probes)
        return probes + sum(question.out_of for question in self.questions)

    @property
    def unread(self) -> int:
        """Number of questions that a person has not marked yet."""
        return sum(question.points is None for question in self.questions)
