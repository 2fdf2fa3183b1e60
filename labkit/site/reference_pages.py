"""Pages of the package's reference, made of its docstrings: one for each folder."""

from __future__ import annotations

import ast
from pathlib import Path

PARTS = {
    "structures": "Categories, detections, panoptic maps",
    "datasets": "Data sets",
    "ops": "Operators",
    "models": "Models",
    "checkpoints": "Checkpoints",
    "metrics": "Metrics",
    "engine": "Training, evaluation, prediction",
    "deploy": "Models without PyTorch",
    "visualize": "Drawings",
    "widgets": "Interactive apps",
    "workbook": "Notebooks",
    "grading": "Grading",
    "checks": "Checks in notebooks",
    "errors": "Errors",
}
"""Parts of the package that have a page, and what they are; commands have a page of their own."""

LEFT_OUT = {"datasets/detectron2/train.py"}
"""A script that `labkit export-detectron2` copies into a folder of data; it runs only there."""


def write_reference(package: Path, folder: Path) -> None:
    """Write the sources of the reference.

    Args:
        package: folder of the package ``labkit``.
        folder: to write to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for part, title in PARTS.items():
        if (package / part).is_dir():
            for path in sorted([package / part, *(package / part).rglob("*/")]):
                modules = sorted(
                    module
                    for module in path.glob("*.py")
                    if module.relative_to(package).as_posix() not in LEFT_OUT
                )
                if _documented(modules):
                    pages.append(_write_page(package, path, modules, folder, title))
        else:
            module = package / f"{part}.py"
            pages.append(_write_page(package, module.with_suffix(""), [module], folder, title))
    entries = "\n".join(f"   {page}" for page in pages)
    (folder / "index.rst").write_text(
        "Reference\n=========\n\nThe package, from its docstrings. Operators, metrics and models"
        " name their paper, and the section of the lesson that builds them. :doc:`/architecture`"
        " says in which order to read the files.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n{entries}\n",
        encoding="utf-8",
    )


def _write_page(package: Path, path: Path, modules: list[Path], folder: Path, title: str) -> str:
    """Write the page of a folder or of a single module; return its name."""
    name = ".".join(path.relative_to(package).parts)
    heading = f"labkit.{name}" if "." in name else f"{title} (labkit.{name})"
    parts = [heading, "=" * len(heading), ""]
    for module in _documented(modules):
        dotted = "labkit." + ".".join(module.relative_to(package).with_suffix("").parts)
        dotted = dotted.removesuffix(".__init__")
        if len(modules) > 1:
            parts += [dotted, "-" * len(dotted), ""]
        parts += [f".. automodule:: {dotted}", "   :members:", ""]
    (folder / f"{name}.rst").write_text("\n".join(parts), encoding="utf-8")
    return name


def _documented(modules: list[Path]) -> list[Path]:
    """The modules that have more than a docstring, and the public ones only."""
    return [
        module
        for module in modules
        if (module.name == "__init__.py" or not module.name.startswith("_"))
        and any(
            isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            for node in ast.parse(module.read_text(encoding="utf-8")).body
        )
    ]
