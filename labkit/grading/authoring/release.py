"""Notebooks generated from the source of an assignment: students', solution, clean."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.source import Cell, Role
from labkit.system.atomic_write import atomic_write
from labkit.workbook.notebook_sources import KERNELSPEC

ANSWERS = {Role.EXERCISE, Role.QUESTION}


def student_notebook(cells: Sequence[Cell], name: str) -> Any:
    """Return the students' notebook: stubs instead of solutions, no probes."""
    return _notebook(
        ((cell, cell.stub) for cell in cells if cell.role not in {Role.SOLUTION, Role.PROBES}),
        name,
    )


def solution_notebook(cells: Sequence[Cell], name: str) -> Any:
    """Return the notebook with the solutions, without the probes."""
    return _notebook(((cell, cell.solved) for cell in cells if cell.role is not Role.PROBES), name)


def clean_notebook(cells: Sequence[Cell], name: str) -> Any:
    """Return the notebook for a student's answers: setup cells and one empty cell per exercise."""
    return _notebook(
        (
            (cell, cell.source if cell.role is Role.SETUP else "")
            for cell in cells
            if cell.role in {Role.SETUP, Role.EXERCISE}
        ),
        name,
    )


def notebook_bytes(notebook: Any) -> bytes:
    """Return the file of a notebook; equal cells give equal bytes."""
    import nbformat

    return (nbformat.writes(notebook).rstrip("\n") + "\n").encode()


def write_notebook(notebook: Any, path: Path) -> None:
    """Write a notebook, completely or not at all.

    Raises:
        LabkitError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(notebook_bytes(notebook))


def assignment_of(notebook: Any) -> str | None:
    """Return the name of the assignment in the metadata of a notebook."""
    mark = notebook.metadata.get("labkit")
    name = mark.get("assignment") if isinstance(mark, dict) else None
    return name if isinstance(name, str) else None


def require_not_edited(path: Path, notebook: Any) -> None:
    """Refuse to overwrite anything but a notebook of the same assignment without outputs.

    Raises:
        LabkitError: `path` exists and is something else.
    """
    from labkit.workbook.notebook_sources import load_notebook

    if not path.exists():
        return
    if path.is_dir() or assignment_of(load_notebook(path)) != assignment_of(notebook):
        raise LabkitError(f"{path} is not this notebook; move it, or choose another --out")
    if any(cell.get("outputs") for cell in load_notebook(path).cells):
        raise LabkitError(f"{path} has outputs; move it, or choose another --out")


def _notebook(contents: Any, name: str) -> Any:
    import nbformat

    seen: Counter[str] = Counter()
    cells = []
    for cell, source in contents:
        make = {
            "code": nbformat.v4.new_code_cell,
            "markdown": nbformat.v4.new_markdown_cell,
            "raw": nbformat.v4.new_raw_cell,
        }[cell.kind]
        metadata: dict[str, Any] = {}
        if cell.role in ANSWERS:
            # JupyterLab then asks twice before it deletes an answer cell.
            metadata = {"labkit": {cell.role.value: cell.name}, "deletable": False}
            identity = f"{cell.role.value}-{cell.name}"
        else:
            if cell.role is not Role.TEXT:
                metadata = {"labkit": {"role": cell.role.value}}
            content = f"{cell.kind}\n{source}"
            seen[content] += 1
            identity = hashlib.sha256(f"{seen[content]}\n{content}".encode()).hexdigest()[:12]
        cells.append(make(source, metadata=metadata, id=identity))
    notebook = nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": KERNELSPEC,
            "labkit": {"assignment": name},
            "language_info": {"name": "python"},
        },
    )
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return notebook
