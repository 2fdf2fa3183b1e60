"""The form of a lesson: ideas visible, everything else folded, a diagram first."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.lesson_lines import IDEA, code_lines, has_tag, lesson_lines
from helpers.paths import CHECKOUT

from labkit.workbook.exercises import FOLDED, is_check
from labkit.workbook.notebook_sources import load_notebook, sources

LESSONS = {path.stem: path for path in sources(CHECKOUT)}
each_lesson = pytest.mark.parametrize("name", LESSONS)
PICTURE = re.compile(r"!\[(?P<alternative>[^\]]*)\]\((?P<file>[^)\s]+)\)")
DRAWS = re.compile(r"\b(plt\.|panels\(|loss_curves\(|draw_\w+\()")


def cells(name: str, kind: str) -> list[Any]:
    return [cell for cell in load_notebook(LESSONS[name]).cells if cell.cell_type == kind]


@each_lesson
def test_the_first_idea_comes_early_and_ideas_are_a_third_of_the_visible_lines(name: str) -> None:
    lines = lesson_lines(LESSONS[name])
    assert lines.before_idea <= 15
    assert lines.idea >= lines.visible / 3


@each_lesson
def test_a_cell_with_an_idea_does_nothing_else(name: str) -> None:
    """No import, no picture, no record."""
    for cell in cells(name, "code"):
        if not has_tag(cell, IDEA):
            continue
        tree = ast.parse(cell.source)
        assert not has_tag(cell, FOLDED), cell.source
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Import | ast.ImportFrom), cell.source
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "labkit.record", cell.source
                assert not DRAWS.match(f"{called}("), cell.source


@each_lesson
def test_a_folded_cell_begins_with_what_it_holds(name: str) -> None:
    folded = [cell.source for cell in cells(name, "code") if has_tag(cell, FOLDED)]
    assert folded
    for source in folded:
        assert re.match(r"# \S.{5,}", source), source[:80]


@each_lesson
def test_the_imports_are_folded(name: str) -> None:
    """Below the parameters: nothing visible imports, but for the apps of labkit.widgets."""
    for cell in cells(name, "code"):
        if not has_tag(cell, FOLDED):
            imports = [line for line in code_lines(cell) if re.match(r"(import|from) ", line)]
            assert all("labkit.widgets" in line for line in imports), imports


@each_lesson
def test_diagrams_exist_have_an_alternative_text_and_come_first(name: str) -> None:
    for cell in cells(name, "markdown"):
        for picture in PICTURE.finditer(cell.source):
            if picture["file"].startswith("diagrams/"):
                assert (CHECKOUT / "notebooks" / picture["file"]).is_file(), picture["file"]
                assert len(picture["alternative"].split()) >= 10, picture["file"]
    figures = figures_in_order(name)
    assert figures[0] == "diagram" or "diagram" not in figures


def figures_in_order(name: str) -> list[str]:
    """Diagrams and computed figures, as they come."""
    found = []
    for cell in load_notebook(LESSONS[name]).cells:
        if cell.cell_type == "markdown":
            pictures = PICTURE.finditer(cell.source)
            found += ["diagram" for p in pictures if p["file"].startswith("diagrams/")]
        elif re.match(r"# Figure", cell.source):
            found.append("figure")
    return found


@each_lesson
def test_a_plus_minus_is_defined_where_it_is_first_used(name: str) -> None:
    """The text defines it before, or in the cell where, a spread is first shown with it."""
    text = "\n".join(cell.source for cell in load_notebook(LESSONS[name]).cells)
    if "±" in text:
        definition = text.find("sample standard deviation")
        assert 0 <= definition <= text.index("±") + 200


@each_lesson
def test_the_glossary_is_linked_once(name: str) -> None:
    text = "\n".join(cell.source for cell in cells(name, "markdown"))
    assert text.count("(../docs/glossary.md)") == 1


@each_lesson
def test_a_reader_has_something_to_do(name: str) -> None:
    """Two or three functions to complete, and a question to predict."""
    every = load_notebook(LESSONS[name]).cells
    solutions = [cell for cell in every if "solution" in cell.metadata.get("labkit", {})]
    checks = [cell for cell in every if is_check(cell)]
    assert 2 <= len(solutions) <= 4
    assert len(checks) == len(solutions)
    for solution, check in zip(solutions, checks, strict=True):
        number = re.match(r"# Solution of exercise (\d+\.\d+): \S", solution.source)
        assert number is not None, solution.source
        assert check.source.startswith(f"# Check of exercise {number[1]}")
        assert has_tag(check, FOLDED)
        for node in ast.parse(solution.source).body:
            assert isinstance(node, ast.FunctionDef), "an exercise defines functions only"
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    assert any("**Predict.**" in cell.source for cell in cells(name, "markdown"))


def test_lessons_are_found() -> None:
    assert len(LESSONS) >= 9


def test_pictures_are_found() -> None:
    match = PICTURE.search("![A pyramid,\nin two lines](diagrams/fpn.svg)")
    assert match is not None
    assert match["file"] == "diagrams/fpn.svg"
    assert Path(match["file"]).suffix == ".svg"
