"""What a start page tells about each lesson and assignment: title, question, minutes, picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

from labkit.errors import LabkitError
from labkit.workbook.notebook_sources import load_notebook, sources

THUMBNAILS = "notebooks/thumbnails"
"""Folder of the pictures of the lessons."""

_TITLE = re.compile(r"^# (?:\d+\. )?(.+)$", re.MULTILINE)
_QUESTION = re.compile(r"^\| \d+ \| \[\w+\]\(notebooks/(\w+)\.ipynb\) \| (.+?) \|", re.MULTILINE)
_TIMES = re.compile(r"^\| (\d\d_\w+) \| (\d+) \| ([\d.]+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


@dataclass(frozen=True)
class LessonFacts:
    """A lesson.

    Attributes:
        name: ``04_panoptic_fpn``.
        number: 4.
        title: ``Panoptic FPN``.
        question: the one that it answers, or "".
        reading: estimated minutes to read it and to solve its exercises; None if not known.
        running: minutes to run it on one core with the profile ``quick``; None if not known.
        thumbnail: a picture that it computes; None if there is none.
    """

    name: str
    number: int
    title: str
    question: str
    reading: int | None
    running: float | None
    thumbnail: Path | None

    @property
    def times(self) -> str:
        """Both times in words, or ""."""
        if self.reading is None or self.running is None:
            return ""
        run = "under a minute" if self.running < 1 else f"{self.running:g} min"
        return f"{self.reading} min to read and solve, {run} to run"


@dataclass(frozen=True)
class AssignmentFacts:
    """An assignment.

    Attributes:
        name: ``a1_roi_align``.
        title: ``Assignment 1. RoIAlign of rotated boxes``.
        minutes: estimated minutes; None if not known.
        lesson: name of the lesson that it follows, or "".
    """

    name: str
    title: str
    minutes: int | None
    lesson: str

    @property
    def short(self) -> str:
        """Its number, such as ``a1``."""
        return self.name.partition("_")[0]


def lesson_facts(root: Path) -> list[LessonFacts]:
    """Read the facts about all lessons, in their order.

    Args:
        root: the workbook.
    """
    times = {row[1]: (int(row[2]), float(row[3])) for row in _rows(root)}
    questions = dict(_QUESTION.findall(_readme(root)))
    found = []
    for source in sources(root):
        title = _TITLE.search(_first_text(source))
        picture = root / THUMBNAILS / f"{source.stem}.webp"
        reading, running = times.get(source.stem, (None, None))
        found.append(
            LessonFacts(
                name=source.stem,
                number=int(source.stem[:2]),
                title=title[1].strip() if title else source.stem,
                question=questions.get(source.stem, ""),
                reading=reading,
                running=running,
                thumbnail=picture if picture.is_file() else None,
            )
        )
    return found


def assignment_facts(root: Path) -> list[AssignmentFacts]:
    """Read the facts about all assignments that have a student notebook, in the order of names."""
    minutes, lessons = dict[str, int](), dict[str, str]()
    for row in _rows(root):
        names = [name for name in row[4].split(", ") if name]
        for name, time in zip(names, row[5].split(", "), strict=False):
            minutes[name] = int(time)
            lessons[name] = row[1]
    found = []
    for notebook in sorted((root / "assignments").glob("*/*.ipynb")):
        if notebook.stem != notebook.parent.name:
            continue
        title = _TITLE.search(_first_text(notebook))
        short = notebook.stem.partition("_")[0]
        found.append(
            AssignmentFacts(
                name=notebook.stem,
                title=title[1].strip() if title else notebook.stem,
                minutes=minutes.get(short),
                lesson=lessons.get(short, ""),
            )
        )
    return found


def _rows(root: Path) -> list[re.Match[str]]:
    """Rows of the table of times in docs/teaching.md."""
    return list(_TIMES.finditer(_text(root / "docs" / "teaching.md")))


def _first_text(notebook: Path) -> str:
    """Text of the first cell; of a notebook that somebody has damaged, none."""
    try:
        cells = load_notebook(notebook).cells
    except LabkitError:
        return ""
    return str(cells[0].source) if cells and cells[0].cell_type == "markdown" else ""


def _readme(root: Path) -> str:
    """The README of a checkout; elsewhere the installed package has it as its description."""
    return _text(root / "README.md") or str(metadata("labkit").json.get("description", ""))


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.is_file() else ""
