"""Reading the source of an assignment: its cells, their roles and solutions.

``source.py`` is in jupytext's py:percent format. The first line of a cell says its role:

================================================  ===============================================
``# %% tags=["setup"]``                           in every notebook; executed in grading
``# %% exercise="NAME"``                          an answer in code
``# %% [markdown] question="NAME"``               an answer in words
``# %% tags=["check"]``                           public checks; not executed in grading
``# %% tags=["solution"]``                        only in the solution notebook
``# %% tags=["probes"]``                          in no notebook
anything else                                     in both notebooks; not executed in grading
================================================  ===============================================
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.probes import NAME
from labkit.workbook.solutions import MARKERS, take_solution, without_markers


class Role(StrEnum):
    """The role of a cell."""

    SETUP = "setup"
    EXERCISE = "exercise"
    QUESTION = "question"
    CHECK = "check"
    SOLUTION = "solution"
    PROBES = "probes"
    TEXT = "text"


TAGS = {role.value: role for role in (Role.SETUP, Role.CHECK, Role.SOLUTION, Role.PROBES)}


@dataclass(frozen=True)
class Cell:
    """One cell of ``source.py``.

    Attributes:
        number: its number, from 1.
        line: the first line of its content in the file, from 1.
        kind: ``code``, ``markdown`` or ``raw``.
        role: its role.
        name: the exercise's or question's name; empty for other roles.
        source: its content, solution included.
        stub: its content without the solution.
        taken: the lines of the solution, which the stub does not have.
    """

    number: int
    line: int
    kind: str
    role: Role
    name: str
    source: str
    stub: str
    taken: tuple[str, ...] = ()

    @property
    def solved(self) -> str:
        """The content with the solution, without the markers."""
        return without_markers(self.source, self.kind) if self.taken else self.source


def read_source(path: Path) -> list[Cell]:
    """Read and check the source of an assignment.

    Raises:
        LabkitError: the file cannot be read or a cell is malformed; the message names the cell.
    """
    import jupytext

    try:
        text = path.read_text(encoding="utf-8")
        notebook = jupytext.reads(text, fmt="py:percent")
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # bytes that are not UTF-8, among others
        raise LabkitError(f"{path}: not a py:percent source: {error}") from error
    cells, found = [], _Finder(text)
    for number, cell in enumerate(notebook.cells, 1):
        where = f"{path}, cell {number} (line {found.line(cell)})"
        cells.append(_read_cell(cell, number, found.last, where))
    for role in (Role.EXERCISE, Role.QUESTION):
        first: dict[str, int] = {}
        for read in (cell for cell in cells if cell.role is role):
            if read.name in first:
                raise LabkitError(
                    f"{path}, cell {read.number} (line {read.line}): {role} {read.name!r} is "
                    f"already in cell {first[read.name]}; give this one another name"
                )
            first[read.name] = read.number
    return cells


def defined_names(source: str) -> list[str]:
    """Return the functions, classes and variables that Python code defines at its top level.

    Raises:
        SyntaxError: the code is not Python.
    """
    names = list[str]()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [
                part.id
                for target in targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            ]
    return list(dict.fromkeys(names))


class _Finder:
    """Finds the lines of cells in the file, which jupytext does not provide."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.last = 1

    def line(self, cell: Any) -> int:
        first = next((line for line in cell.source.splitlines() if line.strip()), None)
        if first is not None:
            wanted = {first, f"# {first}", f"#{first}"}
            for number in range(self.last, len(self.lines) + 1):
                if self.lines[number - 1].rstrip() in {line.rstrip() for line in wanted}:
                    self.last = number
                    break
        return self.last


def _read_cell(cell: Any, number: int, line: int, where: str) -> Cell:
    metadata = dict(cell.metadata)
    role, name = _role(metadata, cell.cell_type, where)
    # The strings of a probes cell may contain markers: it is in no notebook.
    taken = tuple[str, ...]()
    stub = cell.source
    if role is not Role.PROBES:
        stub, taken = take_solution(cell.source, cell.cell_type, where)
    answers = role in {Role.EXERCISE, Role.QUESTION}
    begin, end = MARKERS.get(cell.cell_type, MARKERS["code"])
    if taken and not answers:
        raise LabkitError(
            f"{where}: a solution outside an answer cell; mark the cell as "
            '# %% exercise="NAME" or # %% [markdown] question="NAME"'
        )
    if answers and not taken:
        raise LabkitError(
            f"{where}: {role} {name!r} has no solution; write it between {begin} and {end}"
        )
    if role is Role.EXERCISE:
        for content, what in ((cell.source, "the cell"), (stub, "what students get of it")):
            try:
                ast.parse(content)
            except SyntaxError as error:
                raise LabkitError(
                    f"{where}: {what} is not Python: {error.msg} (line {error.lineno} of it); "
                    "answer cells hold plain Python, without % and ! commands"
                ) from error
    return Cell(number, line, cell.cell_type, role, name, cell.source, stub, taken)


def _role(metadata: dict[str, Any], kind: str, where: str) -> tuple[Role, str]:
    tags = metadata.pop("tags", [])
    names = {key: metadata.pop(key) for key in ("exercise", "question") if key in metadata}
    metadata.pop("lines_to_next_cell", None)  # jupytext's own
    if "incorrectly_encoded_metadata" in metadata:
        line = metadata["incorrectly_encoded_metadata"]
        raise LabkitError(
            f'{where}: {line!r} cannot be understood; write for example tags=["setup"]'
        )
    if metadata:
        raise LabkitError(
            f"{where}: unknown metadata {next(iter(metadata))!r}; a cell has tags=[...], "
            'exercise="NAME" or question="NAME"'
        )
    if not isinstance(tags, list) or not all(tag in TAGS for tag in tags):
        wrong = next((tag for tag in tags if tag not in TAGS), tags)
        raise LabkitError(f"{where}: unknown tag {wrong!r}; the tags are: {', '.join(TAGS)}")
    if len(tags) + len(names) > 1:
        given = ", ".join([*tags, *names])
        raise LabkitError(f"{where}: {given} in one cell; a cell has one role: split it")
    for key, name in names.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise LabkitError(
                f"{where}: the name {name!r} must start with a letter and have at most 48 "
                f'letters, digits, _ and -: {key}="NAME"'
            )
        if (kind == "code") != (key == "exercise"):
            right = '# %% exercise="NAME"' if key == "exercise" else '# %% [markdown] question="N"'
            article = "an" if key == "exercise" else "a"
            raise LabkitError(f"{where}: {article} {key} in a {kind} cell; write {right}")
        return Role(key), name
    role = TAGS[tags[0]] if tags else Role.TEXT
    if role in {Role.SETUP, Role.CHECK, Role.PROBES} and kind != "code":
        raise LabkitError(f"{where}: the tag {role.value!r} in a {kind} cell; it is for code")
    return role, ""


def solution_lines(cells: list[Cell]) -> Iterator[tuple[int, str]]:
    """Yield every line that students must not see, with the number of its cell."""
    for cell in cells:
        hidden = cell.role in {Role.SOLUTION, Role.PROBES}
        for line in cell.source.splitlines() if hidden else cell.taken:
            yield cell.number, line
