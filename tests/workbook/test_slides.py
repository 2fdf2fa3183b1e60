"""Slides of a lesson: what a slide shows, what the notes have, and that nothing is fetched."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from helpers.paths import CHECKOUT

from labkit.errors import LabkitError
from labkit.workbook import slides
from labkit.workbook.notebook_sources import load_notebook, sources
from labkit.workbook.records import RECORD_MIME
from labkit.workbook.slides import slide_notebook, slides_html, split_text

new = nbformat.v4


def code(source, tags=(), *outputs, **labkit):
    metadata = {"tags": list(tags)} | ({"labkit": labkit} if labkit else {})
    return new.new_code_cell(source, metadata=metadata, outputs=list(outputs))


def printed(text):
    return new.new_output("stream", text=text)


LESSON = new.new_notebook(
    cells=[
        new.new_markdown_cell(
            "# 1. Title\n\nThe first sentence. The second one.\n\n> **Before you start.** Read."
        ),
        code("profile = 'quick'", ["parameters"]),
        code("# Set-up\nimport torch", ["hide-input"]),
        new.new_markdown_cell("## 1.1 Section\n\nOne idea. More words.\n\n$$x + 1$$"),
        code("def idea(x):\n    return x + 1", ["idea"]),
        code("# Figure: a plot", ["hide-input"], printed("the output of the plot")),
        new.new_markdown_cell("A sentence alone."),
        code("# Solution of exercise 1.1: f", ["hide-input"], solution="f"),
        code("# Check of exercise 1.1", ["check", "hide-input"], printed("all 3 checks pass")),
        code(
            "# Bookkeeping",
            ["hide-input"],
            new.new_output("display_data", {RECORD_MIME: {"name": "x", "value": 1}}),
        ),
        new.new_markdown_cell("## References\n\n- A paper."),
    ]
)


def test_what_becomes_a_slide():
    cells = slide_notebook(LESSON).cells
    assert [(c.metadata["slideshow"]["slide_type"], c.source) for c in cells] == [
        ("slide", "# 1. Title\n\nThe first sentence."),
        ("notes", "The first sentence. The second one.\n\n> **Before you start.** Read."),
        ("slide", "## 1.1 Section\n\nOne idea.\n\n$$x + 1$$"),
        ("notes", "One idea. More words."),
        ("-", "def idea(x):\n    return x + 1"),
        ("subslide", "# Figure: a plot"),
        ("notes", "A sentence alone."),
    ]
    assert cells[5].metadata["transient"] == {"remove_source": True}


@pytest.mark.parametrize(
    ("source", "shown", "notes"),
    [
        ("One sentence.", "One sentence.", ""),
        ("- a. And b.\n- c", "- a.\n- c", "- a. And b.\n- c"),
        ("| a | b |\n| - | - |", "| a | b |\n| - | - |", ""),
        ("> **Predict.** Which? And why?", "> **Predict.** Which? And why?", ""),
        ("IoU is 0.5 here. So what.", "IoU is 0.5 here.", "IoU is 0.5 here. So what."),
    ],
)
def test_split_text(source, shown, notes):
    assert split_text(source) == (shown, notes)


def test_the_page_holds_everything(tmp_path):
    pytest.importorskip("sphinx_revealjs", reason="no reveal.js; uv sync --extra slides")
    page = slides_html(LESSON, "title", tmp_path)
    assert "the output of the plot" in page
    assert "# Figure: a plot" not in page
    assert "<math" in page
    assert 'class="notes"' in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:)?//", page)
    assert not re.search(r"url\([\"']?(?!data:)[^)]*\.(woff|ttf|eot)", page)


@pytest.mark.parametrize("source", sources(CHECKOUT), ids=lambda path: path.stem)
def test_every_lesson_becomes_slides(source):
    """Each section begins a slide, though no cell has been executed."""
    lesson = load_notebook(source)
    begins = [
        cell.source.splitlines()[0]
        for cell in slide_notebook(lesson).cells
        if cell.metadata["slideshow"]["slide_type"] == "slide"
    ]
    headings = re.findall(
        r"^## (?!References|More exercises).*$",
        "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown"),
        re.MULTILINE,
    )
    assert begins[0].startswith("# ")
    assert set(headings) <= set(begins)


def test_without_reveal(monkeypatch, tmp_path):
    monkeypatch.setattr(slides, "REVEAL", "no_such_package")
    with pytest.raises(LabkitError, match=r"labkit\[slides\]"):
        slides_html(LESSON, "title", tmp_path)


def test_a_lesson_that_was_not_run(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from labkit.cli.commands import app

    result = CliRunner().invoke(app, ["slides", "6", "--from", str(tmp_path)])
    assert isinstance(result.exception, LabkitError)
    assert "labkit run 06_panoptic_quality" in str(result.exception)
    assert not list(Path(tmp_path).iterdir())
