"""Finding the notebook of a lesson or an assignment by number, name or path."""

from __future__ import annotations

from pathlib import Path

from labkit.errors import LabkitError
from labkit.system.unknown_names import unknown_name
from labkit.workbook.notebook_sources import resolve, sources

SOURCE = "source.py"
"""Source of an assignment. It contains the solution, so it is never opened."""


def find_openable(selector: str, root: Path) -> Path:
    """Find the notebook of a number, a name or a path.

    A lesson is called by its number, name or title ("2", "02_roi_align", "roi_align"), an
    assignment likewise ("a1", "a1_roi_align", "roi_align"), or each by its path.

    Args:
        selector: number, name or path, as the reader wrote it.
        root: the folder of the workbook.

    Raises:
        LabkitError: nothing is called so, a lesson and an assignment are, or an assignment has no
            notebook yet.
    """
    folders = _assignments(root)
    path = Path(selector)
    if path.name == SOURCE:
        path = path.parent
    if path.resolve() in folders:
        return _notebook(path.resolve())
    if path.suffix in {".ipynb", ".py"}:
        own = [folder for folder in folders if path == Path(f"{folder.name}.ipynb")]
        return _notebook(own[0]) if own and not path.is_file() else resolve(selector, root)
    lessons = [source.stem for source in sources(root)]
    lesson = next((name for name in lessons if selector in _names(name)), None)
    if lesson is None and selector.isdecimal():
        lesson = next((name for name in lessons if int(name[:2]) == int(selector)), None)
    assigned = [folder for folder in folders if selector in _names(folder.name)]
    found = [f"lesson {lesson}"] if lesson else []
    found += [f"assignment {folder.name}" for folder in assigned]
    if len(found) > 1:
        raise LabkitError(f"{selector!r} is {' and '.join(found)}; write the whole name of one")
    if lesson is not None:
        return resolve(lesson, root)
    if assigned:
        return _notebook(assigned[0])
    names = {"lessons": lessons, "assignments": [folder.name for folder in folders]}
    known = [f"the {kind} are: {', '.join(of_kind)}" for kind, of_kind in names.items() if of_kind]
    listing = "; ".join(known) or "none is here"
    both = [name for of_kind in names.values() for name in of_kind]
    raise unknown_name("lesson and no assignment", selector, both, listing)


def _assignments(root: Path) -> list[Path]:
    """Folders of the assignments, in order; in a reader's copy they have no source."""
    return sorted(
        folder
        for folder in (root / "assignments").glob("*/")
        if (folder / SOURCE).is_file() or (folder / f"{folder.name}.ipynb").is_file()
    )


def _names(name: str) -> set[str]:
    """Names of a lesson or an assignment: the whole name, its number and its title."""
    number, _, title = name.partition("_")
    return {name, number, title} - {""}


def _notebook(folder: Path) -> Path:
    notebook = folder / f"{folder.name}.ipynb"
    if not notebook.is_file():
        raise LabkitError(
            f"{folder}: its student notebook does not exist yet; run: "
            f"labkit assignment release {folder.name}"
        )
    return notebook
