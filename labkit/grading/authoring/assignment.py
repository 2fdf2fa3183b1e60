"""Find and load an assignment: its notebooks, exercises and probes."""

from __future__ import annotations

import hashlib
import linecache
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring import probes, release
from labkit.grading.authoring.probes import Assignment, Probe
from labkit.grading.authoring.source import Cell, Role, defined_names, read_source
from labkit.system.paths import CHECKOUT, WORKBOOK
from labkit.system.unknown_names import unknown_name

SOURCE = "source.py"
_MISSING = (
    f". An installed labkit has the students' notebooks only; a checkout has the {SOURCE} of each"
    " assignment of the workbook: name the folder there"
)


@dataclass(frozen=True)
class Exercise:
    """One answer cell for code.

    Attributes:
        name: the name of the exercise.
        names: the names that an answer defines: first the functions that probes call, then
            everything else that the stub defines.
        stub: the content of the cell in the students' notebook.
    """

    name: str
    names: tuple[str, ...]
    stub: str


@dataclass(frozen=True)
class LoadedAssignment:
    """An assignment that was read and checked.

    Attributes:
        name: the name of the folder.
        folder: the folder of ``source.py``.
        assignment: the definition in its probes cell.
        hash: of everything that a harvest depends on: code of setup and exercises, the probes
            cells and the other files of the folder, but not prose.
        cells: the cells of the source.
        exercises: by name, in the order of the source.
    """

    name: str
    folder: Path
    assignment: Assignment
    hash: str
    cells: tuple[Cell, ...]
    exercises: dict[str, Exercise]

    @cached_property
    def notebook(self) -> Any:
        """The students' notebook."""
        return release.student_notebook(self.cells, self.name)

    @cached_property
    def solution(self) -> Any:
        """The notebook with the solutions."""
        return release.solution_notebook(self.cells, self.name)

    @cached_property
    def clean(self) -> Any:
        """Setup cells and one empty cell per exercise, in the order of the source."""
        return release.clean_notebook(self.cells, self.name)


def find_assignment(selector: str) -> Path:
    """Return the folder of an assignment, given its name or path.

    A name is searched in ``assignments/`` of the working directory and of its parents, then of the
    checkout that labkit runs from; a wheel has no sources.

    Raises:
        LabkitError: there is no such assignment.
    """
    path = Path(selector)
    if path.name == SOURCE and path.is_file():
        path = path.parent
    if (path / SOURCE).is_file():
        return path.resolve()
    start = Path.cwd()
    known = list[str]()
    for root in dict.fromkeys((start, *start.parents, WORKBOOK)):
        folder = root / "assignments"
        if (folder / selector / SOURCE).is_file():
            return (folder / selector).resolve()
        known += sorted(source.parent.name for source in folder.glob(f"*/{SOURCE}"))
    names = ", ".join(dict.fromkeys(known)) or "none"
    listing = f"name a folder with a {SOURCE}, or one of: {names}"
    if CHECKOUT is None:
        listing += _MISSING
    raise unknown_name("assignment", selector, known, listing)


def load_assignment(folder: Path | str) -> LoadedAssignment:
    """Read the folder of an assignment and run its probes cells, which are trusted code.

    Raises:
        LabkitError: ``source.py`` has an error; the message says where and what to do.
    """
    folder = Path(folder).resolve()
    source = folder / SOURCE
    if not probes.NAME.fullmatch(folder.name):
        raise LabkitError(
            f"{folder}: the name of an assignment's folder must start with a letter and have at "
            "most 48 letters, digits, _ and -"
        )
    if not source.is_file():
        raise LabkitError(f"{folder}: no {SOURCE}; `labkit assignment new NAME` creates an example")
    cells = read_source(source)
    assignment = _run_probes(cells, source)
    return LoadedAssignment(
        name=folder.name,
        folder=folder,
        assignment=assignment,
        hash=_hash(cells, folder),
        cells=tuple(cells),
        exercises=_exercises(cells, assignment, source),
    )


def _run_probes(cells: list[Cell], source: Path) -> Assignment:
    ours = [cell for cell in cells if cell.role is Role.PROBES]
    if not ours:
        raise LabkitError(f'{source}: no cell with # %% tags=["probes"]; it defines ASSIGNMENT')
    namespace: dict[str, Any] = {"__name__": "assignment", "__file__": str(source)}
    namespace.update({name: getattr(probes, name) for name in probes.__all__})
    for cell in ours:
        # With the line numbers of the file, for tracebacks.
        content = "\n" * (cell.line - 1) + cell.source
        where = f"{source}, cell {cell.number} (line {cell.line})"
        try:
            exec(compile(content, str(source), "exec"), namespace)
        except SyntaxError as error:
            raise LabkitError(
                f"{where}: not Python: {error.msg} (line {error.lineno} of the file)"
            ) from error
        except LabkitError as error:
            raise LabkitError(f"{source}, line {_line(error, source)}: {error}") from error
        except Exception as error:
            raise LabkitError(
                f"{source}, line {_line(error, source)}: {type(error).__name__}: {error}"
            ) from error
    linecache.checkcache(str(source))
    assignment = namespace.get("ASSIGNMENT")
    if not isinstance(assignment, Assignment):
        found = "is missing" if assignment is None else f"is a {type(assignment).__name__}"
        raise LabkitError(
            f"{where}: ASSIGNMENT {found}; end the cell with ASSIGNMENT = Assignment(title=..., "
            "minutes=..., probes=[...])"
        )
    return assignment


def _line(error: BaseException, source: Path) -> int | str:
    """Return the last line of the source in the traceback of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(source) and frame.lineno]
    return lines[-1] if lines else "?"


def _exercises(cells: list[Cell], assignment: Assignment, source: Path) -> dict[str, Exercise]:
    exercises = {}
    for cell in cells:
        if cell.role is Role.EXERCISE:
            asked = [probe for probe in assignment.probes if probe.exercise == cell.name]
            _require_defined(cell, asked, source)
            names = [*(probe.function for probe in asked), *defined_names(cell.stub)]
            exercises[cell.name] = Exercise(cell.name, tuple(dict.fromkeys(names)), cell.stub)
    for probe in assignment.probes:
        if probe.exercise not in exercises:
            raise LabkitError(
                f"{source}: probe {probe.name!r} is about exercise {probe.exercise!r}; "
                f"the exercises are: {', '.join(exercises) or 'none'}"
            )
        places = list(exercises)
        for name in probe.given:
            if name not in places[: places.index(probe.exercise)]:
                earlier = ", ".join(places[: places.index(probe.exercise)]) or "none"
                raise LabkitError(
                    f"{source}: probe {probe.name!r}: given names {name!r}, which is no exercise "
                    f"before {probe.exercise!r}; these are: {earlier}"
                )
    asked_for = {question.name for question in assignment.questions}
    cells_of = {cell.name: cell for cell in cells if cell.role is Role.QUESTION}
    for name in asked_for - set(cells_of):
        raise LabkitError(
            f'{source}: question {name!r} has no cell; add # %% [markdown] question="{name}"'
        )
    for name in set(cells_of) - asked_for:
        raise LabkitError(
            f"{source}, cell {cells_of[name].number} (line {cells_of[name].line}): question "
            f"{name!r} earns nothing; add Question({name!r}, points=..., rubric=...) to ASSIGNMENT"
        )
    return exercises


def _require_defined(cell: Cell, asked: list[Probe], source: Path) -> None:
    defined = defined_names(cell.source)
    for probe in asked:
        if probe.function not in defined:
            raise LabkitError(
                f"{source}, cell {cell.number} (line {cell.line}): probe {probe.name!r} calls "
                f"{probe.function!r}, which exercise {cell.name!r} does not define; it defines: "
                f"{', '.join(defined) or 'nothing'}"
            )


def _hash(cells: list[Cell], folder: Path) -> str:
    digest = hashlib.sha256()
    for cell in cells:
        if cell.role in {Role.SETUP, Role.EXERCISE, Role.PROBES}:
            content = cell.stub if cell.role is Role.EXERCISE else cell.source
            digest.update(f"{cell.role} {cell.name} {len(content)}\n{content}\n".encode())
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
        prose = path.suffix in {".ipynb", ".md"} or path.name == SOURCE
        if path.is_file() and not hidden and not prose:
            content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"file {inner.as_posix()} {content_hash}\n".encode())
    return digest.hexdigest()
