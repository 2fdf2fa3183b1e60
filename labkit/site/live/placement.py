"""Where the live model stands in the site: pages with ``<labkit-live>``, and ends of sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import nbformat

_HEADING = re.compile(r"^## (\S+).*$", re.MULTILINE)
_ELEMENT = re.compile(r"^<labkit-live ", re.MULTILINE)

BOTH = "panoptic_fpn_tiny mask2former_tiny"
IN_LESSONS = {
    "04_panoptic_fpn": (
        "4.7",
        "Both thresholds on an image of your own: the three graphs of Panoptic FPN run in this"
        " page, and a slider repeats the merge alone.",
        "panoptic_fpn_tiny",
    ),
    "07_model_zoo": (
        "7.9",
        "Two of the tiny networks on an image of your own, in this page. Where do they disagree?",
        BOTH,
    ),
    "10_mask_classification": (
        "10.10",
        "Panoptic FPN and Mask2Former on an image of your own, in this page.",
        BOTH,
    ),
    "11_speed_and_export": (
        "11.5",
        "The three exported graphs in this page: the browser runs them on an image of your own,"
        " and JavaScript does the steps between them.",
        "panoptic_fpn_tiny",
    ),
}
"""Of a lesson: the section at whose end the model stands, a sentence above it, and the models."""


def with_scripts(text: str, root: str) -> str:
    """Put the script and the style that ``<labkit-live>`` needs before a page's first one.

    Args:
        text: Markdown or HTML.
        root: from the page to the folder of the site, for example ``"../"``.
    """
    needed = (
        f'<link rel="stylesheet" href="{root}live/live.css">\n'
        f'<script src="{root}live/live.js"></script>\n'
    )
    return _ELEMENT.sub(lambda match: needed + match[0], text, count=1)


def with_live(cells: Sequence[Any], lesson: str, root: str) -> list[Any]:
    """The cells of a lesson's page, with the live model at the end of its section.

    Args:
        cells: of the lesson.
        lesson: its name.
        root: from the page to the folder of the site.
    """
    if lesson not in IN_LESSONS:
        return list(cells)
    section, sentence, models = IN_LESSONS[lesson]
    text = f'{sentence}\n\n<labkit-live models="{models}"></labkit-live>'
    live = nbformat.v4.new_markdown_cell(with_scripts(text, root))
    page, inside = [], False
    for cell in cells:
        heading = _HEADING.search(cell.source) if cell.cell_type == "markdown" else None
        if heading and inside:  # the cell may begin with the end of the section before
            before, after = cell.source[: heading.start()].strip(), cell.source[heading.start() :]
            page += [nbformat.v4.new_markdown_cell(before)] * bool(before)
            page += [live, nbformat.v4.new_markdown_cell(after)]
        else:
            page.append(cell)
        if heading:
            inside = heading[1] == section
    return page
