"""Definition of an assignment by the instructor: probes, questions, limits.

A probe calls one function of the student in the sandbox, with inputs that no student has seen. Its
answers are compared outside, by :mod:`labkit.grading.scoring.score`. This module runs no code of a
student.

The cell tagged ``probes`` of an assignment's ``source.py`` is executed after
``from labkit.grading.authoring.probes import *`` and defines one name, ``ASSIGNMENT``.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.errors import LabkitError

__all__ = ["Assignment", "Limits", "Mistake", "Probe", "Question", "Tolerance", "Value"]

Value = Any
"""Inputs and answers: Tensor, ndarray, int, float, bool, str, None, and lists, tuples and
dictionaries (with numbers or strings for keys) of these."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of an answer a to the reference b: ``|a - b| <= atol + rtol * |b|``."""

    rtol: float = 1e-5
    atol: float = 1e-6

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) and x >= 0 for x in (self.rtol, self.atol)):
            raise LabkitError(f"Tolerance: rtol and atol must be finite and at least 0, not {self}")


@dataclass(frozen=True)
class Mistake:
    """A common mistake and what to look at in order to find it.

    Attributes:
        hint: a sentence on the feedback page of students whose wrong answers are those of this
            mistake. It replaces the hint of the probe.
        answer: returns what the mistake gives for a case; called with all its entries.
        fits: for a probe with `score` whose answers differ between submissions: returns whether
            answers show this mistake, given the cases and the answers as `score`. Then `answer`
            is an example. Without it all answers must equal those of `answer`.
    """

    hint: str
    answer: Callable[..., Value]
    fits: Callable[[list[dict[str, Value]], list[Value]], bool] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.hint, str) or not self.hint.strip():
            raise LabkitError(f"Mistake: hint must be a non-empty text, not {self.hint!r}")
        if not callable(self.answer):
            raise LabkitError(
                "Mistake: answer must be a function that returns what the mistake gives, not "
                f"{self.answer!r}"
            )
        if self.fits is not None and not callable(self.fits):
            raise LabkitError(
                f"Mistake: fits must be a function of the cases and the answers, not {self.fits!r}"
            )


@dataclass(frozen=True)
class Probe:
    """A test of one function with hidden inputs.

    Attributes:
        name: unique in the assignment; letters, digits, ``_`` and ``-``.
        exercise: the exercise whose answer cell defines the function.
        function: the name that the student defines.
        points: the points for right answers.
        inputs: generates the cases with a random generator: a list of keyword arguments. It is
            called again for scoring, so that it must use no other source of randomness.
        reference: returns the right answer to a case; called with all its entries.
        tolerance: the tolerance of answers.
        score: instead of `reference`: returns the fraction of the points, 0 to 1, for all
            answers, given the cases (with hidden entries) and the answers. A missing answer is
            None; arrays are NumPy arrays.
        partial: points in proportion to right cases; otherwise all or nothing.
        driver: source that defines ``drive(function, **case)``, run in the sandbox instead of
            ``function(**case)``, for example to return gradients.
        hidden: entries of a case that do not enter the sandbox.
        seconds: time limit of all cases together.
        hint: a sentence on the feedback page of students who do not get all points.
        mistakes: common mistakes. The hint of the first one that gives all wrong answers of a
            submission (with `score`: all answers) replaces `hint`.
        given: earlier exercises whose mistakes must not affect this probe: it is run once more,
            in a second run, with the instructor's solutions of these instead of the student's
            answers, and the better result counts. The solutions are then in the sandbox, after
            all other answers have left it.

    Raises:
        LabkitError: an attribute is invalid; the message says which.
    """

    name: str
    exercise: str
    function: str
    points: float
    inputs: Callable[[np.random.Generator], list[dict[str, Value]]]
    reference: Callable[..., Value] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    score: Callable[[list[dict[str, Value]], list[Value]], float] | None = None
    partial: bool = True
    driver: str | None = None
    hidden: tuple[str, ...] = ()
    seconds: float = 30.0
    hint: str = ""
    mistakes: tuple[Mistake, ...] = ()
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("Probe", self.name)
        where = f"probe {self.name!r}"
        if not isinstance(self.exercise, str) or not NAME.fullmatch(self.exercise):
            raise LabkitError(f"{where}: exercise must name an exercise, not {self.exercise!r}")
        if not isinstance(self.function, str) or not self.function.isidentifier():
            raise LabkitError(f"{where}: function must be one name, not {self.function!r}")
        _check_positive(where, "points", self.points)
        _check_positive(where, "seconds", self.seconds)
        if not callable(self.inputs):
            raise LabkitError(f"{where}: inputs must be a function of a random generator")
        if (self.reference is None) == (self.score is None):
            raise LabkitError(f"{where}: give either reference or score, not both")
        if not callable(self.reference or self.score):
            raise LabkitError(f"{where}: reference and score must be functions")
        if not isinstance(self.tolerance, Tolerance):
            raise LabkitError(f"{where}: tolerance must be Tolerance(...), not {self.tolerance!r}")
        if isinstance(self.hidden, str) or not all(isinstance(n, str) for n in self.hidden):
            raise LabkitError(f"{where}: hidden must be a tuple of names, not {self.hidden!r}")
        if not isinstance(self.hint, str):
            raise LabkitError(f"{where}: hint must be a text, not {self.hint!r}")
        if not isinstance(self.mistakes, tuple | list) or not all(
            isinstance(one, Mistake) for one in self.mistakes
        ):
            raise LabkitError(
                f"{where}: mistakes must be a tuple of Mistake(hint, answer), not {self.mistakes!r}"
            )
        if self.score is None and any(one.fits is not None for one in self.mistakes):
            raise LabkitError(
                f"{where}: a mistake has `fits`, which is for probes with score; with reference "
                "the answers are compared with those of the mistake"
            )
        if isinstance(self.given, str) or not all(isinstance(n, str) for n in self.given):
            raise LabkitError(
                f"{where}: given must be a tuple of names of exercises, not {self.given!r}"
            )
        if self.exercise in self.given:
            raise LabkitError(
                f"{where}: given names its own exercise, whose solution would then be graded"
            )
        if self.driver is not None:
            _check_driver(where, self.driver)

    def cases(self, generator: np.random.Generator) -> list[dict[str, Value]]:
        """Generate the cases, with hidden entries.

        Raises:
            LabkitError: `inputs` fails, or does not return cases.
        """
        try:
            cases = list(self.inputs(generator))
        except Exception as error:
            raise LabkitError(
                f"probe {self.name!r}: inputs raised {type(error).__name__}: {error}"
            ) from error
        if not cases:
            raise LabkitError(f"probe {self.name!r}: inputs returned no case")
        for number, case in enumerate(cases, 1):
            if not isinstance(case, dict) or not all(
                isinstance(name, str) and name.isidentifier() for name in case
            ):
                raise LabkitError(
                    f"probe {self.name!r}: case {number} must be a dictionary of keyword arguments"
                )
            unknown = [name for name in self.hidden if name not in case]
            if unknown:
                raise LabkitError(
                    f"probe {self.name!r}: case {number} has no entry {unknown[0]!r} to hide"
                )
        return cases

    def sent(self, case: Mapping[str, Value]) -> dict[str, Value]:
        """Return the entries of a case that enter the sandbox."""
        return {name: value for name, value in case.items() if name not in self.hidden}


@dataclass(frozen=True)
class Question:
    """A free-text question that a person marks.

    Attributes:
        name: the name of its answer cell.
        points: the points for the best answer.
        rubric: how points are given, for the marker; students never see it.
    """

    name: str
    points: float
    rubric: str

    def __post_init__(self) -> None:
        _check_name("Question", self.name)
        _check_positive(f"question {self.name!r}", "points", self.points)
        if not isinstance(self.rubric, str) or not self.rubric.strip():
            raise LabkitError(f"question {self.name!r}: rubric must say how points are given")


@dataclass(frozen=True)
class Limits:
    """Limits of one submission.

    Attributes:
        cell_seconds: time of one cell.
        total_seconds: time of the whole submission, with probes.
        memory_mb: memory of all its processes together.
        output_mb: output of one cell.
        answer_mb: the answers to one probe.
        cells: the number of cells of a notebook.
        notebook_mb: the size of all cells, without outputs and pasted images.
    """

    cell_seconds: float = 60
    total_seconds: float = 600
    memory_mb: int = 4096
    output_mb: float = 10
    answer_mb: float = 64
    cells: int = 500
    notebook_mb: float = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check_positive("Limits", name, value)


@dataclass(frozen=True)
class Assignment:
    """Everything that grading needs in addition to the cells of an assignment.

    Attributes:
        title: the title for students.
        minutes: the time that a student is expected to need.
        probes: tests of functions.
        questions: free-text questions.
        forbidden: dotted names (``torchvision.ops.roi_align``) that an answer must not use: in the
            sandbox they raise an exception, and the source is searched for them.
        limits: the limits of one submission.
        data: files and folders that a student's code may read, relative to the project folder.

    Raises:
        LabkitError: an attribute is invalid, a name occurs twice, or there are no points.
    """

    title: str
    minutes: float
    probes: list[Probe]
    questions: list[Question] = field(default_factory=list)
    forbidden: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            raise LabkitError("Assignment: title must be a non-empty text")
        _check_positive("Assignment", "minutes", self.minutes)
        for name, kind in (("probes", Probe), ("questions", Question)):
            if not isinstance(getattr(self, name), list | tuple) or not all(
                isinstance(entry, kind) for entry in getattr(self, name)
            ):
                raise LabkitError(f"Assignment: {name} must be a list of {kind.__name__}")
        if not isinstance(self.limits, Limits):
            raise LabkitError("Assignment: limits must be Limits(...)")
        for name in ("forbidden", "data"):
            entries = getattr(self, name)
            if isinstance(entries, str) or not all(isinstance(entry, str) for entry in entries):
                raise LabkitError(f"Assignment: {name} must be a tuple of strings, not {entries!r}")
        for dotted in self.forbidden:
            if not DOTTED.fullmatch(dotted):
                raise LabkitError(f"Assignment: forbidden: {dotted!r} is not a dotted name")
        if not self.probes and not self.questions:
            raise LabkitError("Assignment: give at least one probe or question")
        names = Counter([p.name for p in self.probes] + [q.name for q in self.questions])
        for name, count in names.items():
            if count > 1:
                raise LabkitError(f"Assignment: {count} probes or questions have the name {name!r}")

    @property
    def points(self) -> float:
        """The points of all probes and questions."""
        return sum(p.points for p in self.probes) + sum(q.points for q in self.questions)


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise LabkitError(
            f"{kind}: the name {name!r} must start with a letter and have at most 48 letters, "
            "digits, _ and -"
        )


def _check_positive(where: str, name: str, value: Any) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise LabkitError(f"{where}: {name} must be a positive number, not {value!r}")


def _check_driver(where: str, source: Any) -> None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, TypeError, ValueError) as error:
        raise LabkitError(f"{where}: driver is not Python source: {error}") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "drive" for node in tree.body):
        raise LabkitError(f"{where}: driver must define drive(function, **case)")
