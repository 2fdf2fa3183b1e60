"""The example assignment that ``labkit assignment new`` creates."""

from __future__ import annotations

from pathlib import Path

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import SOURCE
from labkit.grading.authoring.probes import NAME
from labkit.system.atomic_write import atomic_write

EXAMPLE = Path(__file__).parent / "example.py.txt"


def write_example(folder: Path) -> Path:
    """Write ``source.py`` into a new folder and return its path.

    Raises:
        LabkitError: the folder exists, or its name is not a valid name of an assignment.
    """
    if not NAME.fullmatch(folder.name):
        raise LabkitError(
            f"{folder.name!r} is not a valid name of an assignment: it must start with a letter "
            "and have at most 48 letters, digits, _ and -"
        )
    if folder.exists():
        raise LabkitError(f"{folder} already exists; choose another name")
    source = folder / SOURCE
    with atomic_write(source) as temporary:
        temporary.write_bytes(EXAMPLE.read_bytes())
    return source
