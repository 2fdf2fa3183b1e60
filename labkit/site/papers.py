"""Addresses of the papers that docstrings and lessons name, by title (``papers.txt``)."""

from __future__ import annotations

import re
from pathlib import Path

ARXIV = "https://arxiv.org/abs/"


def _read(text: str) -> dict[str, str]:
    rows = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {title: number for number, title in rows}


PAPERS = _read(Path(__file__).with_name("papers.txt").read_text(encoding="utf-8"))
"""arXiv's number of each paper."""

# The longest first: "Deformable DETR: ..." before "Deformable DETR".
_TITLES = "|".join(
    r"\s+".join(map(re.escape, title.split())) for title in sorted(PAPERS, key=len, reverse=True)
)
_REFERENCE = re.compile(rf"(?<=[.;]\s)\s*({_TITLES})(?=[.;]|\s\()")
_QUOTED = re.compile(rf'"({_TITLES})"')


def paper_address(title: str) -> str:
    """Address of a paper, however the words of its title are spaced."""
    return ARXIV + PAPERS[" ".join(title.split())]


def link_references(source: str) -> str:
    """Link the titles in a lesson's list of references, ``AUTHORS. TITLE. VENUE``, in Markdown."""
    before, heading, points = source.partition("References\n")
    linked = _REFERENCE.sub(
        lambda m: m[0].replace(m[1], f"[{m[1]}]({paper_address(m[1])})"), points
    )
    return before + heading + linked


def link_quoted_titles(docstring: str) -> str:
    """Link the quoted titles of papers in a docstring, in reStructuredText."""

    def linked(match: re.Match[str]) -> str:
        title = " ".join(match[1].split())
        return f"`{title} <{paper_address(title)}>`__"

    return _QUOTED.sub(linked, docstring)
