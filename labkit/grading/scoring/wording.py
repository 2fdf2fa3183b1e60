"""Sentences for students and instructors about what went wrong with an answer.

The lines and names in them were written by students: they are shortened, and pages escape them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from labkit.grading.execution.cell_analysis import SyntaxProblem
from labkit.grading.execution.harvest import CellRun, FailedLine
from labkit.grading.execution.remarks import Remarks
from labkit.grading.states import CellStatus

MAX_NAME = 60  # characters of a name that are shown
MAX_SHOWN = 3  # lines, names
UNWRITTEN = "NotImplementedError"


def missing(function: str, remarks: Remarks) -> str:
    """Say that a function is not defined, and the probable cause."""
    if remarks.syntax is not None:
        return f"not defined: {_mistake(remarks.syntax)}"
    others = ", ".join(f"`{name}`" for name in remarks.defines[:MAX_SHOWN])
    if others:
        return f"your cell defines {others} instead of `{function}`"
    return "not defined"


def renamed_arguments(function: str, wanted: Sequence[str], remarks: Remarks) -> str:
    """Say that a function has other arguments than those of the call; nothing if it has not."""
    takes = remarks.takes.get(function)
    if takes is None:
        return ""
    unknown = [name for name in wanted if name not in takes.names and not takes.any]
    unasked = [name for name in takes.required if name not in wanted]
    if not unknown and not unasked:
        return ""
    return (
        f"the names of the arguments matter: the call is `{function}({', '.join(wanted)})`, your "
        f"function is `{function}({', '.join(takes.names)})`"
    )


def to_instructor(words: str) -> str:
    """Rephrase for the instructor what a student reads; nothing where only the student cares."""
    named = any(part in words for part in ("your cell", "the names of the arguments"))
    return words.replace("your cell", "the cell").replace("your", "the student's") * named


def failed_lines(cells: Iterable[CellRun]) -> Iterator[str]:
    """Say to the instructor which lines of answers failed; unwritten answers do not count."""
    for cell in cells:
        where = f"exercise {cell.exercise}" if cell.exercise else "outside the exercises"
        if cell.role not in {"setup", "solution"}:
            for one in _failed(cell):
                yield f"{where}: {_line(one)}" + ("; the other lines ran" if cell.ran else "")


def failed_cell(cell: CellRun) -> str:
    """Say to the student what went wrong when a cell ran; nothing if it went well."""
    if cell.status is CellStatus.TIMEOUT:
        return "Your cell ran too long and was stopped."
    failed = _failed(cell)
    if failed:
        more = f", and {len(failed) - MAX_SHOWN} more" if len(failed) > MAX_SHOWN else ""
        lines = "; ".join(map(_line, failed[:MAX_SHOWN]))
        return f"In your cell {lines}{more}." + (" The other lines ran." if cell.ran else "")
    if cell.status is CellStatus.ERROR:
        return f"Your cell raised {exception(cell.ename)} when it ran."
    return ""


def exception(name: Any) -> str:
    """Return the name of an exception's class; anything that is not a name is replaced."""
    plain = isinstance(name, str) and name.isidentifier()
    return name[:MAX_NAME] if plain else "an exception"


def _failed(cell: CellRun) -> list[FailedLine]:
    return [one for one in cell.failed if one.ename != UNWRITTEN]


def _line(failed: FailedLine) -> str:
    if failed.ename == "SyntaxError":
        return _mistake(failed)
    text = f", `{failed.text}`," if failed.text else ""
    return f"line {failed.line}{text} raised {exception(failed.ename)}"


def _mistake(found: SyntaxProblem | FailedLine) -> str:
    text = f", `{found.text}`," if found.text else ""
    message = f" ({found.message})" if found.message else ""
    return f"line {found.line}{text} is not Python{message}"
