"""The layers of ARCHITECTURE.md: modules import from lower layers only, in no cycle."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest
from helpers.modules import MODULES, imports
from helpers.paths import CHECKOUT

# From top to bottom; parts of one line do not import each other either. "" is labkit/__init__.py.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("bench", "site"),
    ("grading", "widgets"),
    ("",),
    ("engine", "workbook"),
    ("checkpoints",),
    ("metrics",),
    ("datasets", "models", "visualize", "doctor"),
    ("ops",),
    ("structures", "checks"),
    ("colors", "deploy", "system"),
    ("errors",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def part(module: str) -> str:
    """What stands right below ``labkit``: a folder or a file."""
    return module.partition(".")[2].partition(".")[0]


def test_every_part_of_the_package_has_its_layer():
    assert {part(module) for module in MODULES} == set(LAYER)


def test_the_table_of_the_architecture_shows_these_layers():
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    shown: list[set[str]] = []
    for number, parts in re.findall(r"^\| (\d*) ?\| (`labkit/.+?) \|", text, re.MULTILINE):
        if number:
            shown.append(set())
        shown[-1] |= set(re.findall(r"labkit/(\w+)", parts))
    layers = [set(parts) - {"__main__", ""} for parts in LAYERS]
    assert [parts - {"csrc"} for parts in shown] == [parts for parts in layers if parts]


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


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of imports with its first module again at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def test_a_cycle_is_found_where_there_is_one():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    found = cycle(graph)
    assert set(found) == {"a", "b", "c"}
    assert all(after in graph[before] for before, after in pairwise(found))


def test_no_modules_import_each_other_in_a_cycle():
    found = cycle({module: imports(module, types=False) for module in MODULES})
    assert not found, " imports ".join(found)
