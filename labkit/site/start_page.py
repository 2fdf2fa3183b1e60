"""The start page: what the course is, a card for each lesson, the assignments."""

from __future__ import annotations

import html
from collections.abc import Iterable

from labkit.workbook.lesson_facts import AssignmentFacts, LessonFacts

HEAD = """---
html_theme.sidebar_secondary.remove: true
---

# Learn instance and panoptic segmentation by building it

{hero}

## Lessons

{lessons}

## Assignments

{assignments}

## More

{more}

{contents}
"""

HERO = """\
<div class="lk-hero">
<img src="{shapes}" width="1320" height="214" alt="Images of the built-in data set Shapes beside
their panoptic maps: squares, circles and triangles, each with its number, on regions of sky, grass,
water and sand">
<p>{lessons} lessons as Jupyter notebooks, from a classifier to Mask R-CNN, Panoptic FPN, UPSNet,
DETR and Mask2Former; {assignments} graded assignments; and a Python package in which each model,
operator and metric is short enough to read in one sitting. Everything here was computed by the
notebooks themselves, on a CPU, from images that labkit draws.</p>
<p class="lk-actions">{actions}</p>
</div>"""


def start_page(
    lessons: list[LessonFacts],
    assignments: list[AssignmentFacts],
    shapes: str,
    pictures: dict[str, str],
    actions: Iterable[tuple[str, str]],
    more: Iterable[tuple[str, str, str]],
    contents: dict[str, list[str]],
) -> str:
    """Return the start page in Markdown.

    Args:
        lessons: in order.
        assignments: in order.
        shapes: the picture of the data set, a path in the site.
        pictures: the thumbnail of each lesson that has one, a path in the site.
        actions: what a visitor can do at once, as (text, address).
        more: further pages, as (title, address, what it is).
        contents: the pages of the sidebar, by caption.
    """
    hero = HERO.format(
        shapes=shapes,
        lessons=len(lessons),
        assignments=len(assignments),
        actions=" ".join(
            _anchor(text, address, "lk-button" if number else "lk-button lk-first")
            for number, (text, address) in enumerate(actions)
        ),
    )
    return HEAD.format(
        hero=hero,
        lessons=_list("lk-cards", [_card(lesson, pictures.get(lesson.name)) for lesson in lessons]),
        assignments=_list("lk-rows", [_row(each) for each in assignments]),
        more=_list("lk-rows", [_link(*each) for each in more]),
        contents="\n".join(_toctree(caption, pages) for caption, pages in contents.items()),
    )


def _list(name: str, points: list[str]) -> str:
    return f'<ul class="{name}">\n' + "\n".join(f"<li>{point}</li>" for point in points) + "\n</ul>"


def _card(lesson: LessonFacts, picture: str | None) -> str:
    seen = (
        f'<img src="{picture}" alt="" width="560" height="280" loading="lazy">'
        if picture
        else f'<span class="lk-blank" aria-hidden="true">{lesson.number}</span>'
    )
    return (
        f'<a class="lk-card" href="lessons/{lesson.name}.html">{seen}'
        f'<span class="lk-text"><span class="lk-title">{lesson.number}. '
        f"{html.escape(lesson.title)}</span>"
        f'<span class="lk-question">{html.escape(lesson.question)}</span>'
        f'<span class="lk-times">{html.escape(lesson.times)}</span></span></a>'
    )


def _row(assignment: AssignmentFacts) -> str:
    after = f"after lesson {int(assignment.lesson[:2])}" if assignment.lesson else ""
    time = f"{assignment.minutes} min" if assignment.minutes else ""
    what = ", ".join(filter(None, [time, after]))
    return _link(assignment.title, f"assignments/{assignment.name}.html", what)


def _link(title: str, address: str, what: str) -> str:
    return f"{_anchor(title, address)} <span>{html.escape(what)}</span>"


def _anchor(text: str, address: str, name: str = "") -> str:
    marked = f' class="{name}"' if name else ""
    return f'<a{marked} href="{html.escape(address)}">{html.escape(text)}</a>'


def _toctree(caption: str, pages: list[str]) -> str:
    entries = "\n".join(pages)
    return f":::{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n:::\n"
