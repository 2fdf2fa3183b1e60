"""Facts about lessons and assignments, and the page on which JupyterLab opens."""

from __future__ import annotations

from pathlib import Path

from helpers.paths import CHECKOUT

from labkit.workbook.lab_start_page import lab_start_page, write_lab_start_page
from labkit.workbook.lesson_facts import assignment_facts, lesson_facts
from labkit.workbook.notebook_sources import sources


def test_every_lesson_has_its_facts() -> None:
    facts = lesson_facts(CHECKOUT)
    assert [lesson.name for lesson in facts] == [source.stem for source in sources(CHECKOUT)]
    for number, lesson in enumerate(facts, start=1):
        assert lesson.number == number
        assert lesson.title
        assert lesson.question.endswith("?")
        assert lesson.reading is not None
        assert lesson.running is not None
    assert facts[5].title == "Panoptic quality"
    assert facts[5].times == f"{facts[5].reading} min to read and solve, under a minute to run"


def test_every_assignment_has_its_facts() -> None:
    facts = assignment_facts(CHECKOUT)
    assert {each.name for each in facts} == {
        p.parent.name for p in CHECKOUT.glob("assignments/*/*.ipynb")
    }
    assert all(each.minutes and each.lesson for each in facts)
    assert facts[0].title == "Assignment 1. RoIAlign of rotated boxes"


def test_a_thumbnail_of_most_lessons_in_one_size() -> None:
    from PIL import Image

    pictures = [lesson.thumbnail for lesson in lesson_facts(CHECKOUT) if lesson.thumbnail]
    assert len(pictures) > 9
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (560, 280)
        assert picture.stat().st_size < 60_000


def test_the_page_of_a_workbook_with_little(tmp_path: Path) -> None:
    """A source without a title, a damaged assignment, no times and no pictures."""
    source = tmp_path / "notebooks" / "src" / "01_first.py"
    source.parent.mkdir(parents=True)
    source.write_text("# %%\n1 + 1\n")
    notebook = tmp_path / "assignments" / "a1" / "a1.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text("{}")
    text = write_lab_start_page(tmp_path).read_text()
    assert "| **[1. 01_first](notebooks/01_first.ipynb)** |" in text
    assert "- [a1](assignments/a1/a1.ipynb)\n" in text


def test_the_page_leads_to_files() -> None:
    text = lab_start_page(lesson_facts(CHECKOUT), assignment_facts(CHECKOUT), CHECKOUT)
    assert "](notebooks/01_semantic_review.ipynb)" in text
    assert 'src="notebooks/thumbnails/01_semantic_review.webp"' in text
