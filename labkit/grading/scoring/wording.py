"""What harvest noted about an answer, in words for the student and for the instructor.

Everything that comes in here was written or caused by a student: lines and names are shortened,
and pages show them as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

LONGEST_NAME = 60  # characters of a name that are shown
MOST = 3  # lines, names
UNWRITTEN = "NotImplementedError"


def missing(function: str, noted: Mapping[str, Any]) -> str:
    """Say that a function is not there, and what probably became of it."""
    wrong = noted.get("syntax")
    if isinstance(wrong, Mapping):
        return f"not defined: {_mistake(wrong)}"
    others = ", ".join(f"`{name}`" for name in _names(noted.get("defines"))[:MOST])
    if others:
        return f"your cell defines {others}; `{function}` is wanted"
    return "not defined"


def renamed_arguments(function: str, wanted: Sequence[str], noted: Mapping[str, Any]) -> str:
    """Say that a function takes other arguments than it is called with; nothing if it does not."""
    takes = noted.get("takes")
    found = takes.get(function) if isinstance(takes, Mapping) else None
    if not isinstance(found, Mapping):
        return ""
    names, required = _names(found.get("names")), _names(found.get("required"))
    unknown = [name for name in wanted if name not in names and not found.get("any")]
    unasked = [name for name in required if name not in wanted]
    if not unknown and not unasked:
        return ""
    return (
        f"the arguments' names matter: `{function}({', '.join(wanted)})` is called, and yours is "
        f"`{function}({', '.join(names)})`"
    )


def to_instructor(words: str) -> str:
    """Say to the instructor what is said to a student, or nothing where the student knows best."""
    named = any(part in words for part in ("your cell", "the arguments' names"))
    return words.replace("your cell", "the cell").replace("yours is", "the student's is") * named


def failed_lines(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Say to the instructor which lines of answers failed; unwritten answers are no failure."""
    for cell in cells:
        exercise = cell.get("exercise")
        where = f"exercise {exercise}" if exercise else "beside the exercises"
        if cell.get("role") not in {"setup", "solution"}:
            for one in _failed(cell):
                yield f"{where}: {_line(one)}" + (
                    "; the other lines ran" if cell.get("ran") else ""
                )


def failed_cell(cell: Mapping[str, Any]) -> str:
    """Say to the student what went wrong when a cell ran; nothing if it went well."""
    status = cell.get("status")
    if status == "timeout":
        return "Your cell ran too long and was stopped."
    failed = _failed(cell)
    if failed:
        more = f", and {len(failed) - MOST} more" if len(failed) > MOST else ""
        lines = "; ".join(map(_line, failed[:MOST]))
        return f"In your cell {lines}{more}." + (" The other lines ran." if cell.get("ran") else "")
    if status == "error":
        return f"Your cell raised {exception(cell.get('ename'))} when it ran."
    return ""


def exception(name: Any) -> str:
    """Name an exception's class, which may be called anything: only a name is repeated."""
    plain = isinstance(name, str) and name.isidentifier()
    return name[:LONGEST_NAME] if plain else "an exception"


def _failed(cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = cell.get("failed")
    lines = found if isinstance(found, list) else []
    return [one for one in lines if isinstance(one, Mapping) and one.get("ename") != UNWRITTEN]


def _line(failed: Mapping[str, Any]) -> str:
    if failed.get("ename") == "SyntaxError":
        return _mistake(failed)
    text = f", `{failed['text']}`," if failed.get("text") else ""
    return f"line {failed.get('line')}{text} raised {exception(failed.get('ename'))}"


def _mistake(found: Mapping[str, Any]) -> str:
    text = f", `{found['text']}`," if found.get("text") else ""
    message = f" ({found['message']})" if found.get("message") else ""
    return f"line {found.get('line')}{text} is not Python{message}"


def _names(found: Any) -> list[str]:
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
