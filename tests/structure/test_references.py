"""What docstrings, comments and lessons name exists: modules, functions, classes."""

from __future__ import annotations

import ast
import re

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


def test_what_is_named_exists():
    missing = [
        f"{path.relative_to(CHECKOUT)}: {name}"
        for path in FILES
        for name in re.findall(r"`~?(labkit(?:\.\w+)+)", path.read_text())
        if not exists(name) and name not in APPS
    ]
    assert not missing, "\n".join(missing)


def test_files_that_a_module_names_exist():
    known = [str(path) for path in (*MODULES.values(), *CHECKOUT.glob("data/*/*.py"))]
    missing = [
        f"{module}: {file}"
        for module, path in MODULES.items()
        for file in re.findall(r"``([\w/]+\.py)``", path.read_text())
        if "NAME" not in file and not any(each.endswith(f"/{file}") for each in known)
    ]
    assert not missing, "\n".join(missing)
