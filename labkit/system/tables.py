"""TOML files that come with labkit: data sets, weights, claims of the notebooks."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file.

    Raises:
        LabkitError: it is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabkitError(f"{path}: not found; install labkit again") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabkitError(f"{path} is not valid TOML: {error}") from None
