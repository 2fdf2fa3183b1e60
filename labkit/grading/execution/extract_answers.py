"""Extraction of a student's answers from a notebook, as a person would find them.

The answers are inserted into the instructor's clean notebook: setup cells, then one place for each
exercise. Duplicated, split, moved or unmarked cells cost a student nothing.

- The answer to an exercise is every cell with its name in the metadata, in order. Unchanged copies
  of the original cell count only if there is nothing else, and cells that are not Python by
  themselves are joined.
- A function that these cells do not define is searched by its name in the rest of the notebook.
- Imports, helper functions and values that an answer uses are inserted before it, wherever they
  were; of their cells only the necessary statements.
- Names that the setup defines stay as the instructor wrote them.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labkit.grading.authoring.assignment import Exercise, LoadedAssignment
from labkit.grading.authoring.source import Role
from labkit.grading.execution.cell_analysis import (
    Unit,
    parse,
    same_code,
    units,
    without_commands,
)
from labkit.grading.execution.forbidden_functions import forbidden_functions
from labkit.grading.execution.free_text import FreeTextAnswers, find_free_text
from labkit.grading.execution.remarks import Remarks, remarks_on
from labkit.grading.intake.notebook_reader import BadNotebook, StudentCell, cells_of
from labkit.grading.intake.notebook_reader import parse as parse_notebook

BUILTINS = frozenset(dir(builtins)) | {"get_ipython", "display", "__name__", "__file__"}

DEFINITION = re.compile(r"(@|(async )?def |class |import |from )")


@dataclass(frozen=True)
class ExtractedAnswers:
    """The graded parts of a submission.

    Attributes:
        notebook: the clean notebook with the answers, to be executed. The metadata of its cells
            is ``labkit: {"role": "setup" | "helper"}`` or ``{"exercise": NAME}``.
        free_text: the answers to questions.
        forbidden: dotted names that an answer uses although the assignment forbids them.
        remarks: by exercise.
    """

    notebook: Any
    free_text: FreeTextAnswers
    forbidden: tuple[str, ...]
    remarks: dict[str, Remarks]


def extract_answers(cells: list[StudentCell], loaded: LoadedAssignment) -> ExtractedAnswers:
    """Insert a student's answers into the clean notebook of the assignment."""
    import nbformat

    setup = [cell for cell in loaded.cells if cell.role is Role.SETUP]
    given = {name for cell in setup for unit in units(cell.source) for name in unit.binds}
    rest = [
        (number, unit)
        for number, cell in enumerate(cells)
        if cell.kind == "code" and cell.exercise not in loaded.exercises
        for unit in units(cell.source)
    ]
    answers = {name: _answer(cells, rest, loaded.exercises[name]) for name in loaded.exercises}
    for pieces in answers.values():
        given |= {name for _, source in pieces for unit in units(source) for name in unit.binds}
    inserted = []
    written = set[int]()
    for cell in loaded.cells:
        if cell.role is Role.SETUP:
            inserted.append(_code(cell.source, {"role": "setup"}))
        elif cell.role is Role.EXERCISE:
            helpers = _helpers(answers[cell.name], rest, given)
            for index in sorted(helpers - written):
                inserted.append(_code(rest[index][1].source, {"role": "helper"}))
            written |= helpers
            for _, source in answers[cell.name]:
                inserted.append(_code(source, {"exercise": cell.name}))
    notebook = nbformat.v4.new_notebook(cells=inserted, metadata=loaded.clean.metadata)
    ours = [cell.source for cell in inserted if cell.metadata.labkit.get("role") != "setup"]
    forbidden = forbidden_functions(
        ours, (cell.source for cell in setup), loaded.assignment.forbidden
    )
    remarks = {
        name: remarks_on([source for _, source in pieces], loaded.exercises[name])
        for name, pieces in answers.items()
    }
    return ExtractedAnswers(notebook, find_free_text(cells, loaded), forbidden, remarks)


def is_untouched(content: bytes, loaded: LoadedAssignment) -> bool:
    """Tell whether a notebook has no content beside that of the released one."""
    try:
        cells = cells_of(parse_notebook(content), loaded.assignment.limits)
    except BadNotebook:
        return False
    given = {" ".join(cell.stub.split()) for cell in loaded.cells}
    return all(" ".join(cell.source.split()) in {"", *given} for cell in cells)


def with_solutions(notebook: Any, given: Iterable[str], loaded: LoadedAssignment) -> Any:
    """Return a notebook of answers with the instructor's solutions of some exercises.

    The student's answers to these exercises are reduced to definitions and imports, which other
    answers may use and which cannot fail or hang. The solutions redefine the same names.
    """
    import nbformat

    order = list(loaded.exercises)
    solutions = {cell.name: cell.solved for cell in loaded.cells if cell.name in set(given)}
    cells = list[Any]()

    def put_solutions(until: int) -> None:
        for name in [name for name in solutions if order.index(name) < until]:
            cells.append(_code(solutions.pop(name), {"role": "solution"}))

    replaced = set(solutions)
    for cell in notebook.cells:
        name = cell.metadata.labkit.get("exercise")
        if name is not None:
            put_solutions(order.index(name))
        if name not in replaced:
            cells.append(_code(cell.source, dict(cell.metadata.labkit)))
            continue
        for unit in units(cell.source):
            if DEFINITION.match(unit.source):
                cells.append(_code(unit.source, {"role": "helper"}))
    put_solutions(len(order))
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def _answer(
    cells: list[StudentCell], rest: list[tuple[int, Unit]], exercise: Exercise
) -> list[tuple[int, str]]:
    """Return the pieces of an answer, each with the number of its cell."""
    marked = [
        (number, cell.source)
        for number, cell in enumerate(cells)
        # One wrong key turns a code cell into markdown.
        if cell.exercise == exercise.name and (cell.kind == "code" or parse(cell.source))
    ]
    own = [(n, source) for n, source in marked if without_commands(source).strip()]
    own = [(n, source) for n, source in own if not same_code(source, exercise.stub)]
    if any(parse(source) is None for _, source in own):
        together = "\n".join(source for _, source in own)
        if parse(together) is not None:
            own = [(own[0][0], together)]
    own = _without_unwritten_copies(own)
    defined = {name for _, source in own for name in _defined(source)}
    wanted = [name for name in exercise.names if name not in defined]
    found = set[int]()
    for name in wanted:
        places = [n for n, unit in rest if name in unit.binds and name not in unit.unwritten]
        if places:
            found |= {
                index
                for index, (n, unit) in enumerate(rest)
                if n == places[-1] and name in unit.binds
            }
    pieces = sorted([*own, *((rest[index][0], rest[index][1].source) for index in found)])
    return pieces or [(n, source) for n, source in marked if without_commands(source).strip()][-1:]


def _without_unwritten_copies(own: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Drop functions that only raise NotImplementedError where another copy implements them."""
    written = {name for _, source in own for name in _defined(source)}
    kept = []
    for number, source in own:
        unwritten = {name for unit in units(source) for name in unit.unwritten}
        if not unwritten or unwritten - written:
            kept.append((number, source))
            continue
        rest = [unit.source for unit in units(source) if not unit.unwritten]
        kept.append((number, "\n".join(rest)))
    return [(number, source) for number, source in kept if source.strip()]


def _defined(source: str) -> set[str]:
    return {name for unit in units(source) for name in unit.binds - unit.unwritten}


def _helpers(
    pieces: list[tuple[int, str]], rest: list[tuple[int, Unit]], given: set[str]
) -> set[int]:
    """Return the remaining units that an answer needs, directly or through others."""
    known = given | BUILTINS
    helpers = set[int]()
    stars = {index for index, (_, unit) in enumerate(rest) if unit.star}
    waiting = [(place, name) for place, source in pieces for name in _uses(source)]
    seen = set[str]()
    while waiting:
        place, name = waiting.pop()
        if name in known or name in seen:
            continue
        seen.add(name)
        numbers = [number for number, unit in rest if name in unit.binds]
        if not numbers:
            helpers |= stars
            continue
        # The last definition before the answer; otherwise the last one of all.
        chosen = max((n for n in numbers if n < place), default=numbers[-1])
        for index, (number, unit) in enumerate(rest):
            if number == chosen and name in unit.binds and index not in helpers:
                helpers.add(index)
                waiting += [(number, other) for other in unit.uses]
    return helpers


def _uses(source: str) -> Iterable[str]:
    """Return the names that an answer uses; none if it is not Python."""
    found = units(source)
    return {name for unit in found for name in unit.uses}


def _code(source: str, mark: dict[str, str]) -> Any:
    import nbformat

    return nbformat.v4.new_code_cell(source, metadata={"labkit": mark})
