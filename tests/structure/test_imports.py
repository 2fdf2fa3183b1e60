"""The layers of ARCHITECTURE.md: a module imports from lower layers only."""

from __future__ import annotations

import pytest
from helpers.modules import MODULES, imports

# From top to bottom; parts of one line do not import each other either. "" is labkit/__init__.py.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("bench",),
    ("grading", "widgets"),
    ("",),
    ("engine", "workbook"),
    ("checkpoints",),
    ("metrics",),
    ("datasets", "models", "visualize", "doctor"),
    ("ops",),
    ("structures", "checks"),
    ("colors", "system"),
    ("errors",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def part(module: str) -> str:
    """What stands right below ``labkit``: a folder or a file."""
    return module.partition(".")[2].partition(".")[0]


def test_every_part_of_the_package_has_its_layer():
    assert {part(module) for module in MODULES} == set(LAYER)


@pytest.mark.parametrize("name", sorted(LAYER))
def test_modules_import_from_lower_layers_only(name):
    upward = [
        f"{module} imports {imported}"
        for module in MODULES
        if part(module) == name
        for imported in sorted(imports(module, types=True))
        if part(imported) != name and LAYER[part(imported)] <= LAYER[name]
    ]
    assert not upward
