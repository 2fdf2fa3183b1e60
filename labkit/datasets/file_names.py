"""File names in annotations and folders: Windows separators, hidden files, hints for mistakes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes by which images are found in a folder."""


def resolve_file_name(folder: Path, name: str) -> Path:
    """Path of a ``file_name`` in a folder; its separators may be Windows' backslashes."""
    path = folder / name
    # Unlike Path.exists, os.path.exists raises nothing for a name that is too long.
    there = "\\" not in name or os.path.exists(path)  # noqa: PTH110
    return path if there else folder / name.replace("\\", "/")


def visible_files(paths: Iterable[Path]) -> list[Path]:
    """Sort paths and leave out hidden files of systems and programs, such as
    ``.ipynb_checkpoints`` and macOS' ``._x.png``."""
    return sorted(path for path in paths if not path.name.startswith((".", "__MACOSX")))


def missing_file_hint(path: Path) -> str:
    """Hint for the message about a missing file: a similar file, or that the folder is missing."""
    base = Path(path.name.replace("\\", "/").rpartition("/")[2].partition("?")[0])
    folder = path.parent
    while not os.path.isdir(folder) and folder != folder.parent:  # noqa: PTH112 -- as above
        folder = folder.parent
    for ending in (base.suffix, *SUFFIXES, *map(str.upper, SUFFIXES)):
        there = folder / f"{base.stem}{ending}"
        if base.stem and there != path and os.path.isfile(there):  # noqa: PTH113 -- as above
            return f"; {there.name} is in {folder}: correct the name"
    if path.parent != folder or "\\" in path.name:
        return (
            "; there is no such folder (names in annotations are relative to the folder of files)"
        )
    return ""
