"""Exercises in a lesson: functions to complete, a check below, the solution folded.

In the source of a lesson an exercise is two cells:

    # %% exercise="iou"
    # Exercise 1.2: the IoU of one class
    def iou(prediction, target): ...        # with the solution between its markers

    # %% tags=["check", "hide-input"]
    # Check of exercise 1.2
    check = Checks("Exercise 1.2") ...

Two editions are made of it. The *solved* edition, which ``labkit run`` executes, has the solution
in the place of the exercise, folded. The *student's* edition, which ``labkit lab --copy`` writes,
has the function to complete, the check, and below it the solution, folded: when all cells are run,
the lesson goes on with it, whatever the student wrote.
"""

from __future__ import annotations

import ast
from typing import Any

from labkit.errors import LabkitError
from labkit.workbook.solutions import take_solution, without_markers

FOLDED = "hide-input"
"""Tag of a code cell that is shown folded: set-up, plotting, bookkeeping. Jupyter Book's name."""

CHECK = "check"
"""Tag of the cell that checks the exercise above it."""

STUDENT = "student"
"""The edition in the metadata of a student's notebook; a solved one has none."""


def is_check(cell: Any) -> bool:
    """Whether a cell checks an exercise."""
    return CHECK in cell.metadata.get("tags", [])


def solved_cells(cells: list[Any]) -> list[Any]:
    """Return the cells of the solved edition: every exercise holds its solution, folded.

    Raises:
        LabkitError: an exercise is malformed; the message says which.
    """
    _require_checks(cells)
    return [_solution(cell) if "exercise" in cell.metadata else cell for cell in cells]


def student_cells(cells: list[Any]) -> list[Any]:
    """Return the cells of the student's edition: stub, check, folded solution.

    Raises:
        LabkitError: an exercise is malformed; the message says which.
    """
    import nbformat

    _require_checks(cells)
    edition, solutions = [], list[Any]()
    for cell in cells:
        if "exercise" in cell.metadata:
            stub, _ = take_solution(cell.source, cell.cell_type, _where(cell))
            name = cell.metadata["exercise"]
            edition.append(nbformat.v4.new_code_cell(stub, metadata={"labkit": {"exercise": name}}))
            solutions.append(_solution(cell))
        else:
            edition.append(cell)
            if is_check(cell):
                edition += solutions
                solutions = []
    return edition


def _where(cell: Any) -> str:
    return f"exercise {cell.metadata['exercise']!r}"


def _require_checks(cells: list[Any]) -> None:
    """Require the form of every exercise, before a cell is changed."""
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "exercise" not in cell.metadata:
            continue
        where = _where(cell)
        stub, taken = take_solution(cell.source, cell.cell_type, where)
        if not taken:
            raise LabkitError(f"{where} has no solution between # BEGIN and # END SOLUTION")
        if not cell.source.startswith("# Exercise "):
            raise LabkitError(f"{where}: its first line must be a comment: # Exercise 1.2: title")
        if following is None or not is_check(following):
            raise LabkitError(f'{where}: the cell below it must have tags=["check", "hide-input"]')
        for content in (cell.source, stub):
            try:
                ast.parse(content)
            except SyntaxError as error:
                raise LabkitError(
                    f"{where}: line {error.lineno} is not Python: {error.msg}"
                ) from error


def _solution(cell: Any) -> Any:
    """The folded cell with the solution of an exercise."""
    import nbformat

    solved = without_markers(cell.source, cell.cell_type)
    titled = solved.replace("# Exercise ", "# Solution of exercise ", 1)
    name = cell.metadata["exercise"]
    return nbformat.v4.new_code_cell(
        titled, metadata={"labkit": {"solution": name}, "tags": [FOLDED]}
    )
