"""The order in which notebooks are started: the longest first.

With several at a time, a long notebook that starts last runs alone at the end while the other
cores wait. How long each takes is told in ``notebooks/minutes.toml``, one table a profile.
"""

from __future__ import annotations

from pathlib import Path

from labkit.errors import LabkitError
from labkit.system.text_files import read_toml


def load_minutes(path: Path) -> dict[str, dict[str, float]]:
    """Read the minutes: profile, notebook name. A missing file tells nothing.

    Raises:
        LabkitError: the file is not TOML of this form.
    """
    if not path.is_file():
        return {}
    tables = read_toml(path)
    for profile, minutes in tables.items():
        if not isinstance(minutes, dict):
            raise LabkitError(f"{path}: {profile} must be a table of notebooks")
        for name, value in minutes.items():
            if type(value) not in (int, float):
                raise LabkitError(f"{path}: [{profile}] {name} must be a number of minutes")
    return tables


def longest_first(notebooks: dict[str, str | None], path: Path) -> list[str]:
    """Order the names of notebooks, given with their profiles, by the minutes in a file.

    Those that the file does not tell of come first, in the order given: they may be long.
    """
    minutes = load_minutes(path)
    return sorted(
        notebooks, key=lambda name: -minutes.get(notebooks[name] or "", {}).get(name, float("inf"))
    )
