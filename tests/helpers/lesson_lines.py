"""Counts of a lesson's lines: what a reader sees, and which of it carries the idea.

    PYTHONPATH=tests python -m helpers.lesson_lines

A line of code counts unless it is empty or a comment. It is *folded* in a cell with the tag
``hide-input``, and otherwise *visible*; the parameters cell counts as neither. It *carries the
idea* in a visible cell with the tag ``idea``, which the author gives to a cell that writes a
concept of the section as code and does nothing else: no imports, no plots, no records.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.workbook.exercises import FOLDED
from labkit.workbook.notebook_sources import find_root, load_notebook, sources

IDEA = "idea"


@dataclass(frozen=True)
class LessonLines:
    """Numbers of lines of one lesson.

    Attributes:
        visible: lines of code in cells that are not folded.
        folded: lines of code in folded cells.
        idea: visible lines in cells that carry the idea.
        before_idea: visible lines before the first such cell.
        prose: words in markdown cells.
    """

    visible: int
    folded: int
    idea: int
    before_idea: int
    prose: int


def code_lines(cell: Any) -> list[str]:
    """Return a cell's lines of code, without empty ones and comments."""
    lines = (line.strip() for line in cell.source.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def has_tag(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def lesson_lines(path: Path) -> LessonLines:
    """Count the lines of a notebook or its source."""
    visible: list[bool] = []
    folded = prose = 0
    for cell in load_notebook(path).cells:
        if cell.cell_type == "markdown":
            prose += len(cell.source.split())
        elif has_tag(cell, FOLDED):
            folded += len(code_lines(cell))
        elif not has_tag(cell, "parameters"):
            visible += [has_tag(cell, IDEA)] * len(code_lines(cell))
    before = visible.index(True) if True in visible else len(visible)
    return LessonLines(len(visible), folded, sum(visible), before, prose)


def main() -> None:
    print(
        f"{'lesson':22}{'visible':>9}{'folded':>8}{'idea':>7}{'share':>7}{'before':>8}{'words':>8}"
    )
    for path in sources(find_root(Path.cwd())):
        n = lesson_lines(path)
        print(
            f"{path.stem:22}{n.visible:9}{n.folded:8}{n.idea:7}{n.idea / max(1, n.visible):7.0%}"
            f"{n.before_idea:8}{n.prose:8}"
        )


if __name__ == "__main__":
    main()
