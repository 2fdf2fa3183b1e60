"""Shell completion of names, without slow imports."""

from __future__ import annotations

import ast
from pathlib import Path


def notebooks() -> list[str]:
    """Names of the lessons."""
    from labkit.workbook.notebook_sources import find_root, sources

    return [source.stem for source in sources(find_root())]


def assignments() -> list[str]:
    """Names of the assignments with a student notebook."""
    from labkit.workbook.notebook_sources import find_root

    return sorted(path.stem for path in find_root().glob("assignments/*/*.ipynb"))


def openable() -> list[str]:
    """Names that `labkit lab` opens."""
    return [*notebooks(), *assignments()]


def models() -> list[str]:
    """Names of `labkit zoo list`."""
    from labkit.checkpoints.shipped import shipped

    return [*shipped(), *published()]


def published() -> list[str]:
    """Names of published weights."""
    from labkit.checkpoints.model_zoo import published_weights

    return [*published_weights()]


def datasets() -> list[str]:
    """Names of `labkit data list`."""
    from labkit.datasets.fetch.catalog import catalogue

    return [*catalogue()]


def presets() -> list[str]:
    """Names of the presets of `labkit train`.

    They are parsed from the source text, because an import would load torch.
    """
    from labkit.system.paths import PACKAGE

    text = Path(PACKAGE, "models", "presets.py").read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            keys = [key.value for key in statement.value.keys if isinstance(key, ast.Constant)]
            if getattr(statement.target, "id", "") == "PRESETS":
                return [str(key) for key in keys]
    return []
