"""What an instructor writes: probes, questions, limits.

A probe calls one function of the student on inputs that no student has seen, in the sandbox, and
takes its answers out. What is right is decided outside, by :mod:`labkit.grading.scoring.score`.
Nothing in this module runs a student's code.

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

__all__ = ["Assignment", "Limits", "Probe", "Question", "Tolerance", "Value"]

Value = Any
"""What goes in and comes out: Tensor, ndarray, int, float, bool, str, None, and lists, tuples and
dictionaries (with numbers or strings for keys) of these."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the reference: ``|a - b| <= atol + rtol * |b|``."""

    rtol: float = 1e-5
    atol: float = 1e-6

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) and x >= 0 for x in (self.rtol, self.atol)):
            raise LabkitError(f"Tolerance: rtol and atol are finite and at least 0, not {self}")


@dataclass(frozen=True)
class Probe:
    """One thing that is asked of one function, and what it is worth.

    Attributes:
        name: unique in the assignment; letters, digits, ``_`` and ``-``.
        exercise: the exercise whose answer cell defines the function.
        function: the name that the student defines.
        points: what it is worth.
        inputs: makes the cases from a random generator: a list of keyword arguments. It is
            called again for scoring, so that it may use no other source of randomness.
        reference: the right answer for a case, called with all its entries.
        tolerance: how near an answer must be.
        score: instead of `reference`: the share, 0 to 1, that all answers together earn, from
            the cases (hidden entries included) and the answers. An answer that never came is
            None; arrays come as NumPy's.
        partial: points by the share of right cases; otherwise all or nothing.
        driver: source that defines ``drive(function, **case)``, run in the sandbox instead of
            ``function(**case)``, for example to return gradients.
        hidden: entries of a case that never enter the sandbox.
        seconds: time for all cases together.
        hint: a sentence for students who do not get all points, on their feedback page.
        given: earlier exercises whose mistakes shall not cost this probe: it is asked once more,
            in a second run, with the instructor's solution of these in place of the student's
            answer, and the better of the two counts. The solution is then in the sandbox, after
            all other answers have left it.

    Raises:
        LabkitError: an attribute makes no sense; the message says which.
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
            raise LabkitError(f"{where}: give either reference or score, and not both")
        if not callable(self.reference or self.score):
            raise LabkitError(f"{where}: reference and score are functions")
        if not isinstance(self.tolerance, Tolerance):
            raise LabkitError(f"{where}: tolerance must be Tolerance(...), not {self.tolerance!r}")
        if isinstance(self.hidden, str) or not all(isinstance(n, str) for n in self.hidden):
            raise LabkitError(f"{where}: hidden must be a tuple of names, not {self.hidden!r}")
        if not isinstance(self.hint, str):
            raise LabkitError(f"{where}: hint must be a text, not {self.hint!r}")
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
        """Make the cases, hidden entries included.

        Raises:
            LabkitError: `inputs` fails, or gives something else than cases.
        """
        try:
            cases = list(self.inputs(generator))
        except Exception as error:
            raise LabkitError(
                f"probe {self.name!r}: inputs raised {type(error).__name__}: {error}"
            ) from error
        if not cases:
            raise LabkitError(f"probe {self.name!r}: inputs gave no case")
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
        """Return what of a case goes into the sandbox."""
        return {name: value for name, value in case.items() if name not in self.hidden}


@dataclass(frozen=True)
class Question:
    """A free-text question, read and marked by a person.

    Attributes:
        name: the name of its answer cell.
        points: what the best answer is worth.
        rubric: what earns the points, for the person who marks it. Students never see it.
    """

    name: str
    points: float
    rubric: str

    def __post_init__(self) -> None:
        _check_name("Question", self.name)
        _check_positive(f"question {self.name!r}", "points", self.points)
        if not isinstance(self.rubric, str) or not self.rubric.strip():
            raise LabkitError(f"question {self.name!r}: say in rubric what earns the points")


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        cell_seconds: time of one cell.
        total_seconds: time of the whole submission, probes included.
        memory_mb: memory of the whole family of processes.
        output_mb: what one cell prints and shows.
        answer_mb: the answers of one probe.
        cells: how many cells a notebook may have.
        notebook_mb: how much may stand in them; outputs and pasted pictures do not count.
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
    """Everything that grading an assignment needs beside its cells.

    Attributes:
        title: as students know it.
        minutes: how long a student is expected to need.
        probes: what is computed.
        questions: what a person reads.
        forbidden: dotted names (``torchvision.ops.roi_align``) that an answer may not use: in the
            sandbox they raise, and the source is searched for them.
        limits: what one submission may use.
        data: files and folders that a student's code may read, relative to the project folder.

    Raises:
        LabkitError: an attribute makes no sense, a name occurs twice, or nothing earns a point.
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
            raise LabkitError("Assignment: it needs a title")
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
            raise LabkitError("Assignment: without probes and questions nothing earns a point")
        names = Counter([p.name for p in self.probes] + [q.name for q in self.questions])
        for name, count in names.items():
            if count > 1:
                raise LabkitError(f"Assignment: {count} probes or questions are called {name!r}")

    @property
    def points(self) -> float:
        """What everything together is worth."""
        return sum(p.points for p in self.probes) + sum(q.points for q in self.questions)


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise LabkitError(
            f"{kind}: the name {name!r} must start with a letter and hold at most 48 letters, "
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
