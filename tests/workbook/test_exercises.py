"""Exercises of lessons: the solved and the student's edition, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.workbook.copy_workbook import copy_workbook
from labkit.workbook.notebook_sources import differing, edited, from_source, generate, sync

EXERCISE = """# %% exercise="double"
# Exercise 1.1: twice a number
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION
"""
CHECK = """# %% tags=["check", "hide-input"]
# Check of exercise 1.1
print(double(2))
"""
SOURCE = f"# %% [markdown]\n# # Title\n\n{EXERCISE}\n{CHECK}\n# %%\ndouble(3)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    source = tmp_path / "project" / "notebooks" / "src" / "01_first.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    return tmp_path / "project"


def test_the_solved_edition_has_the_solution_in_the_place_of_the_exercise() -> None:
    _, solution, check, last = from_source(SOURCE).cells
    assert solution.source == (
        "# Solution of exercise 1.1: twice a number\ndef double(x):\n    return 2 * x"
    )
    assert solution.metadata["jupyter"] == {"source_hidden": True}
    assert check.metadata["tags"] == ["check", "hide-input"]
    assert last.source == "double(3)"


def test_the_students_edition_has_the_solution_below_the_check() -> None:
    notebook = from_source(SOURCE, student=True)
    _, exercise, check, solution, last = notebook.cells
    assert exercise.source == (
        "# Exercise 1.1: twice a number\n"
        'def double(x):\n    raise NotImplementedError("your code here")'
    )
    assert "jupyter" not in exercise.metadata
    assert check.source.startswith("# Check of exercise 1.1")
    assert solution.source.startswith("# Solution of exercise 1.1")
    assert "return 2 * x" in solution.source
    assert solution.metadata["jupyter"] == {"source_hidden": True}
    assert last.source == "double(3)"
    assert notebook.metadata["labkit"] == {"edition": "student"}
    assert len({cell.id for cell in notebook.cells}) == 5


def test_a_copy_has_the_students_edition_and_keeps_it(project: Path, tmp_path: Path) -> None:
    sync(project)
    copy = copy_workbook(project, tmp_path / "copy")
    source, notebook = (copy / "notebooks" / p for p in ("src/01_first.py", "01_first.ipynb"))
    assert notebook.read_bytes() == generate(source, student=True) != generate(source)
    assert differing(copy) == {}
    assert not edited(notebook)

    notebook.write_text(notebook.read_text().replace("your code here", "not yet"))
    assert edited(notebook)
    assert sync(copy) == [notebook]
    assert notebook.read_bytes() == generate(source, student=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    # BEGIN SOLUTION\n", "", "END SOLUTION without # BEGIN SOLUTION"),
        ("    # END SOLUTION\n", "", "BEGIN SOLUTION without # END SOLUTION"),
        ("# Exercise 1.1: twice a number\n", "", "first line must be a comment"),
        (CHECK, "", r'the cell below it must have tags=\["check", "hide-input"\]'),
        ("return 2 * x", "return 2 *", "line 4 is not Python"),
    ],
)
def test_malformed_exercises(project: Path, old: str, new: str, message: str) -> None:
    source = project / "notebooks" / "src" / "01_first.py"
    assert old in SOURCE
    source.write_text(SOURCE.replace(old, new))
    with pytest.raises(LabkitError, match=f"01_first.py.*'double'.*{message}"):
        sync(project)


def test_an_exercise_without_a_solution(project: Path) -> None:
    source = project / "notebooks" / "src" / "01_first.py"
    source.write_text(
        SOURCE.replace("    # BEGIN SOLUTION\n", "").replace("    # END SOLUTION\n", "")
    )
    with pytest.raises(LabkitError, match="'double' has no solution"):
        generate(source)
