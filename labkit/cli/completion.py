"""What the shell offers at the Tab key: names, found without loading what they stand for."""

from __future__ import annotations

import ast
from pathlib import Path


def notebooks() -> list[str]:
    """Names of the lessons."""
    from labkit.workbook.notebook_sources import find_root, sources

    return [source.stem for source in sources(find_root())]


def assignments() -> list[str]:
    """Names of the assignments whose students' notebook is here."""
    from labkit.workbook.notebook_sources import find_root

    return sorted(path.stem for path in find_root().glob("assignments/*/*.ipynb"))


def openable() -> list[str]:
    """What `labkit lab` opens."""
    return [*notebooks(), *assignments()]


def models() -> list[str]:
    """Names that `labkit zoo list` shows."""
    from labkit.checkpoints.shipped import shipped

    return [*shipped(), *published()]


def published() -> list[str]:
    """Names of published weights."""
    from labkit.checkpoints.model_zoo import published_weights

    return [*published_weights()]


def datasets() -> list[str]:
    """Names that `labkit data list` shows."""
    from labkit.datasets.fetch.catalog import catalogue

    return [*catalogue()]


def presets() -> list[str]:
    """Names of the models that `labkit train` trains.

    Read in the text of the presets, because importing them takes torch along.
    """
    from labkit.system.paths import PACKAGE

    text = Path(PACKAGE, "models", "presets.py").read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            keys = [key.value for key in statement.value.keys if isinstance(key, ast.Constant)]
            if getattr(statement.target, "id", "") == "PRESETS":
                return [str(key) for key in keys]
    return []
