"""``tests/`` mirrors ``labkit/``, and needs no tricks to import."""

from __future__ import annotations

from helpers.modules import MODULES
from helpers.paths import CHECKOUT, TESTS

OTHERS = {
    "assignments",
    "attacks",
    "browser",
    "fuzzing",
    "golden",
    "helpers",
    "notebooks",
    "structure",
}
"""Folders of ``tests/`` that stand for no folder of the package."""


def folders(root):
    """The folders below ``root`` that hold Python files, as paths from there."""
    files = [path.relative_to(root) for path in root.rglob("*.py")]
    return {str(folder) for file in files for folder in file.parents} - {"."}


def test_a_folder_of_tests_stands_for_a_folder_of_the_package():
    package = folders(CHECKOUT / "labkit")
    extra = {folder for folder in folders(TESTS) - package if folder not in OTHERS}
    assert extra == set()
    assert OTHERS & {module.split(".")[1] for module in MODULES if "." in module} == set()


def test_every_part_of_the_package_has_a_folder_of_tests():
    package = {folder for folder in folders(CHECKOUT / "labkit") if "/" not in folder}
    assert package - folders(TESTS) == set()


def test_modules_of_tests_have_names_of_their_own():
    # pytest imports them by their names alone.
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_imports_need_no_change_of_the_path():
    # Golden files are made by scripts that import another project's checkout.
    files = [path for path in TESTS.rglob("*.py") if path.parent.name != "golden"]
    changed = "sys" + ".path"
    assert [str(path) for path in files if changed in path.read_text()] == []
