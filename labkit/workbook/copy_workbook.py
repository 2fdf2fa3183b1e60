"""Copying the workbook, for readers who cannot or do not want to write into the checkout.

Lessons are copied in the student's edition: their exercises are to be completed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.paths import writable
from labkit.workbook.lab_start_page import write_lab_start_page
from labkit.workbook.notebook_sources import generate, notebook_path, sources

COPIED = ("notebooks", "assignments", "docs/glossary.md", "docs/teaching.md")
LEFT_OUT = {"__pycache__", ".ipynb_checkpoints", "source.py"}
"""Files that are not copied; the source of an assignment contains the solution."""


def copy_workbook(root: Path, to: Path) -> Path:
    """Copy notebooks, assignments and guides; keep the files that the copy already has.

    Args:
        root: the workbook.
        to: the target folder, created if missing.

    Returns:
        The folder, absolute.

    Raises:
        LabkitError: the copy would lie in what is copied, or cannot be written.
    """
    to = to.expanduser().resolve()
    for name in COPIED:
        if to == root or to.is_relative_to(root / name):
            raise LabkitError(f"{to}: is inside the workbook itself; name another folder")
    lessons = {notebook_path(source): source for source in sources(root)}
    for name in COPIED:
        for source in [root / name, *sorted((root / name).rglob("*"))]:
            place = to / source.relative_to(root)
            if source.is_file() and not place.exists() and not LEFT_OUT & set(source.parts):
                with atomic_write(place) as temporary:
                    if source in lessons:
                        temporary.write_bytes(generate(lessons[source], student=True))
                    else:
                        shutil.copyfile(source, temporary)
    if not writable(to):
        raise LabkitError(f"{to}: cannot be written; name another folder")
    write_lab_start_page(to)
    return to
