"""What docstrings, comments and lessons name exists: modules, functions, classes."""

from __future__ import annotations

import ast
import re

import pytest
from helpers.modules import MODULES, exists, tree
from helpers.paths import CHECKOUT

FILES = sorted(
    path
    for pattern in ("labkit/**/*.py", "notebooks/src/*.py", "assignments/*/source.py")
    for path in CHECKOUT.glob(pattern)
)


def apps() -> set[str]:
    """The names that ``labkit.widgets`` imports when they are first used."""
    for node in tree(MODULES["labkit.widgets"]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_APPS":
            return {f"labkit.widgets.{name}" for name in ast.literal_eval(node.value)}
    raise AssertionError("labkit/widgets/__init__.py has no _APPS")


APPS = apps()


def test_references_are_found_out():
    assert exists("labkit.ops.roi_align.roi_align")
    assert exists("labkit.structures.Categories.label")
    assert not exists("labkit.structures.Categories.labels")
    assert not exists("labkit.structure")
    assert "labkit.widgets.Compare" in APPS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_what_is_named_exists(path):
    names = re.findall(r"`~?(labkit(?:\.\w+)+)", path.read_text())
    assert [name for name in names if not exists(name) and name not in APPS] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_that_a_module_names_exist(module):
    files = re.findall(r"``([\w/]+\.py)``", MODULES[module].read_text())
    known = [str(path) for path in (*MODULES.values(), *CHECKOUT.glob("data/*/*.py"))]
    missing = [file for file in files if not any(path.endswith(f"/{file}") for path in known)]
    assert [file for file in missing if "NAME" not in file] == []
