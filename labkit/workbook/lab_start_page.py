"""The page on which ``labkit lab`` opens: a card for each lesson and assignment, in Markdown."""

from __future__ import annotations

from pathlib import Path

from labkit.system.atomic_write import atomic_write
from labkit.workbook.lesson_facts import (
    AssignmentFacts,
    LessonFacts,
    assignment_facts,
    lesson_facts,
)

COLUMNS = 3
START = "start.md"
"""The page, in the folder of the workbook."""


def write_lab_start_page(root: Path) -> Path:
    """Write the page into a workbook, which may be a copy; an earlier one is replaced.

    JupyterLab shows it as a page because labkit's settings say so (``labkit/jupyter``).
    """
    page = root / START
    with atomic_write(page) as temporary:
        text = lab_start_page(lesson_facts(root), assignment_facts(root), root)
        temporary.write_text(text, encoding="utf-8")
    return page


def lab_start_page(
    lessons: list[LessonFacts], assignments: list[AssignmentFacts], root: Path
) -> str:
    """Return the page.

    Args:
        lessons: in order.
        assignments: in order.
        root: folder of the page, from which its links lead.
    """
    parts = ["# labkit", "Learn instance and panoptic segmentation by building it.", "## Lessons"]
    cards = [_card(each, root) for each in lessons]
    rows = [" | ".join(cards[i : i + COLUMNS]) for i in range(0, len(cards), COLUMNS)]
    parts.append("\n".join(["| | | |", "| :-- | :-- | :-- |", *(f"| {row} |" for row in rows)]))
    if assignments:
        rows = [_assignment(each) for each in assignments]
        parts += ["## Assignments", "\n".join(rows)]
    if (root / "docs" / "glossary.md").is_file():
        parts.append("[Glossary](docs/glossary.md): every term in a sentence, with its section.")
    return "\n\n".join(parts) + "\n"


def _card(lesson: LessonFacts, root: Path) -> str:
    link = f"notebooks/{lesson.name}.ipynb"
    picture = ""
    if lesson.thumbnail is not None:
        path = lesson.thumbnail.relative_to(root).as_posix()
        picture = f'<a href="{link}"><img src="{path}" alt="" width="280"></a>'
    lines = [f"**[{lesson.number}. {lesson.title}]({link})**", lesson.question, lesson.times]
    return "<br>".join(filter(None, [picture, *lines]))


def _assignment(assignment: AssignmentFacts) -> str:
    link = f"assignments/{assignment.name}/{assignment.name}.ipynb"
    after = f"after lesson {int(assignment.lesson[:2])}" if assignment.lesson else ""
    time = f"about {assignment.minutes} min" if assignment.minutes else ""
    what = ", ".join(filter(None, [time, after]))
    return f"- [{assignment.title}]({link}){': ' if what else ''}{what}"
