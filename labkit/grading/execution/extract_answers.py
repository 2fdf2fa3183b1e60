"""Lifting a student's answers out of a notebook, as a person who looks for them would.

The answers go into the instructor's clean notebook: setup cells, then one slot an exercise. A
student who has duplicated, split, moved or deleted cells loses nothing but what is really gone.

- An answer is every cell that carries the exercise's id, in order. Copies as they were handed out
  count only if there is nothing else, and halves that are no Python by themselves are put together.
- A function that is not in there is looked for by its name in the rest of the notebook.
- Imports, helper functions and values that an answer uses come along before it, wherever they
  stood; of those cells only the statements that matter.
- What the setup defines stays as the instructor wrote it.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labkit.grading.authoring.assignment import Exercise, LoadedAssignment
from labkit.grading.authoring.source import Role
from labkit.grading.execution.cell_analysis import Unit, dotted_uses, parse, plain, same_code, units
from labkit.grading.execution.free_text import FreeText, find_answers
from labkit.grading.execution.remarks import remarks
from labkit.grading.intake.notebook_reader import BadNotebook, StudentCell, cells_of
from labkit.grading.intake.notebook_reader import parse as parse_notebook

BUILTINS = frozenset(dir(builtins)) | {"get_ipython", "display", "__name__", "__file__"}

DEFINITION = re.compile(r"(@|(async )?def |class |import |from )")


@dataclass(frozen=True)
class Lifted:
    """What of a submission is graded.

    Attributes:
        notebook: the clean notebook with the answers, to be executed. Its cells' metadata say
            ``labkit: {"role": "setup" | "helper"}`` or ``{"exercise": NAME}``.
        free_text: the answers to questions.
        forbidden: dotted names that an answer uses although the assignment forbids them.
        remarks: by exercise, what :func:`labkit.grading.execution.remarks.remarks` notes.
    """

    notebook: Any
    free_text: FreeText
    forbidden: tuple[str, ...]
    remarks: dict[str, dict[str, Any]]


def lift(cells: list[StudentCell], loaded: LoadedAssignment) -> Lifted:
    """Put a student's answers into the clean notebook of the assignment."""
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
    lifted = []
    written = set[int]()
    for cell in loaded.cells:
        if cell.role is Role.SETUP:
            lifted.append(_code(cell.source, {"role": "setup"}))
        elif cell.role is Role.EXERCISE:
            helpers = _helpers(answers[cell.name], rest, given)
            for index in sorted(helpers - written):
                lifted.append(_code(rest[index][1].source, {"role": "helper"}))
            written |= helpers
            for _, source in answers[cell.name]:
                lifted.append(_code(source, {"exercise": cell.name}))
    notebook = nbformat.v4.new_notebook(cells=lifted, metadata=loaded.clean.metadata)
    ours = [cell.source for cell in lifted if cell.metadata.labkit.get("role") != "setup"]
    used = set(dotted_uses(ours, (cell.source for cell in setup)))
    noted = {
        name: remarks([source for _, source in pieces], loaded.exercises[name])
        for name, pieces in answers.items()
    }
    return Lifted(notebook, find_answers(cells, loaded), _forbidden(used, loaded), noted)


def is_untouched(content: bytes, loaded: LoadedAssignment) -> bool:
    """Tell whether a notebook's file holds nothing but what was handed out."""
    try:
        cells = cells_of(parse_notebook(content), loaded.assignment.limits)
    except BadNotebook:
        return False
    given = {" ".join(cell.stub.split()) for cell in loaded.cells}
    return all(" ".join(cell.source.split()) in {"", *given} for cell in cells)


def with_solutions(notebook: Any, given: Iterable[str], loaded: LoadedAssignment) -> Any:
    """Return a lifted notebook with the instructor's solutions of some exercises.

    Of the student's answers to these only definitions and imports stay, for another answer may
    use them: no line of them can fail or hang. What the solution defines replaces what they do.
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
    """Return the pieces of an answer, each with the place it stood at."""
    marked = [
        (number, cell.source)
        for number, cell in enumerate(cells)
        # A slip of the keyboard makes markdown of a code cell.
        if cell.exercise == exercise.name and (cell.kind == "code" or parse(cell.source))
    ]
    own = [(n, source) for n, source in marked if plain(source).strip()]
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
    return pieces or [(n, source) for n, source in marked if plain(source).strip()][-1:]


def _without_unwritten_copies(own: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Drop a copy whose functions are still unwritten where another copy has written them."""
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
    """Return which of the remaining units an answer needs, by way of others too."""
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
        # The definition that was in force when the answer ran; failing that, the last one.
        chosen = max((n for n in numbers if n < place), default=numbers[-1])
        for index, (number, unit) in enumerate(rest):
            if number == chosen and name in unit.binds and index not in helpers:
                helpers.add(index)
                waiting += [(number, other) for other in unit.uses]
    return helpers


def _uses(source: str) -> Iterable[str]:
    """Return what an answer needs; of one that is no Python, nothing."""
    found = units(source)
    return {name for unit in found for name in unit.uses}


def _code(source: str, mark: dict[str, str]) -> Any:
    import nbformat

    return nbformat.v4.new_code_cell(source, metadata={"labkit": mark})


def _forbidden(used: set[str], loaded: LoadedAssignment) -> tuple[str, ...]:
    return tuple(
        name
        for name in loaded.assignment.forbidden
        if any(found == name or found.startswith(f"{name}.") for found in used)
    )
