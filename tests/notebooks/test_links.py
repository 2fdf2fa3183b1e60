"""Links between lessons, and to their figures, lead to something that exists."""

from __future__ import annotations

import re

import pytest
from helpers.paths import CHECKOUT

from labkit.workbook.notebook_sources import load_notebook, sources

SOURCES = {source.stem: source for source in sources(CHECKOUT)}


def markdown(name: str) -> str:
    cells = load_notebook(SOURCES[name]).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def headings(name: str) -> set[str]:
    """Fragments of a lesson's headings, as JupyterLab and the report name them."""
    lines = re.findall(r"^#+ (.+)$", markdown(name), re.MULTILINE)
    return {line.strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", SOURCES)
def test_links_lead_somewhere(name: str) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", markdown(name)):
        if re.match(r"https?:", link):
            continue
        path, _, fragment = link.partition("#")
        lesson = path.removesuffix(".ipynb") if path else name
        there = not path or (CHECKOUT / "notebooks" / path).is_file()
        if not there or (fragment and fragment not in headings(lesson)):
            missing.append(link)
    assert missing == []


def test_headings_are_found() -> None:
    assert "1.4-Intersection-over-union" in headings("01_semantic_review")
