"""The teaching guide: its times are those of the lessons, its sections exist."""

import re

from helpers.paths import CHECKOUT
from helpers.teaching_times import GRADED, PAGE, with_rows

from labkit.workbook.notebook_sources import load_notebook, sources


def test_the_times_are_those_of_the_lessons() -> None:
    page = PAGE.read_text()
    assert page == with_rows(page), "run: PYTHONPATH=tests python -m helpers.teaching_times"


def test_every_assignment_has_a_place() -> None:
    names = {path.parent.name for path in (CHECKOUT / "assignments").glob("*/source.py")}
    assert {name for of_lesson in GRADED.values() for name in of_lesson} == names
    page = PAGE.read_text()
    weeks = page[page.index("## Twelve weeks") : page.index("## Two days")]
    for name in names:
        short = name.partition("_")[0]
        handed_out, due = _rows(weeks, short, 3), _rows(weeks, short, 4)
        assert len(handed_out) == len(due) == 1, name
        assert handed_out < due


def _rows(table: str, word: str, column: int) -> list[int]:
    """Numbers of the rows of a table whose cell in a column has the word."""
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| \d", line)]
    return [i for i, row in enumerate(rows) if word in re.findall(r"\w+", row[column])]


def test_sections_exist() -> None:
    headings = {
        match
        for source in sources(CHECKOUT)
        for cell in load_notebook(source).cells
        for match in re.findall(r"^## (\d+\.\d+) ", cell.source, re.MULTILINE)
    }
    mentioned = set(re.findall(r"(?<![\d.])(\d{1,2}\.\d+)(?![\d.])", PAGE.read_text()))
    mentioned -= {"0.5", "1.5"}  # centres of cells
    table = re.compile(r"\| \d\d_\w+ \|.*")
    minutes = {n for row in table.findall(PAGE.read_text()) for n in re.findall(r"\d\.\d", row)}
    assert mentioned - minutes <= headings
