"""Start order of notebooks: the longest first.

If a long notebook starts last, it runs alone at the end while the other cores are idle. The times
are in ``notebooks/minutes.toml``, one table for each profile.
"""

from __future__ import annotations

from pathlib import Path

from labkit.errors import LabkitError
from labkit.system.text_files import read_toml


def load_minutes(path: Path) -> dict[str, dict[str, float]]:
    """Read the minutes by profile and notebook; none if the file is missing.

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
    """Sort notebooks, given with their profiles, by the minutes in a file, longest first.

    Those that the file does not tell of come first, in the order given: they may be long.
    """
    minutes = load_minutes(path)
    return sorted(
        notebooks, key=lambda name: -minutes.get(notebooks[name] or "", {}).get(name, float("inf"))
    )
