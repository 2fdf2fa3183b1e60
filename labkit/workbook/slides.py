"""Slides of a lesson, made from its executed notebook.

A slide shows what a lecturer points at: headings, diagrams, formulas, tables, the code of an idea,
figures. Of a paragraph the slide has the first sentence, and the speaker's notes (key S) have all
of it. Set-up, bookkeeping, checks and solutions are left out; what folded cells put out stays.

The page is one file: reveal.js, its style sheets and all figures are inside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nbconvert import SlidesExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from labkit.errors import LabkitError
from labkit.workbook.exercises import FOLDED, is_check
from labkit.workbook.notebook_html import TEMPLATES, Offline, WithoutEmptyOutputs
from labkit.workbook.records import RECORD_MIME

REVEAL = "sphinx_revealjs"
"""The package that carries reveal.js."""

FONTS = re.compile(r"@import (url\()?[\"']?[^;]*fonts/[^;]*;")
"""Imports of a theme's fonts, which are files of their own; the system's font serves."""

_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z*_`\[(])")
_HEADING = re.compile(r"^(?=#+ )", re.MULTILINE)
_POINT = re.compile(r"^([-*]|\d+\.) ", re.MULTILINE)
_SHOWN = re.compile(r"#|!\[|\$\$|\||>|[-*] |\d+\. |<")
"""How a block of Markdown begins that is shown whole: anything but a paragraph."""

LEFT_OUT = re.compile(r"#+ (\d+\.\d+ )?(References|More exercises|Further reading)\b")
"""Sections that are for reading."""


class _Slides(Offline, SlidesExporter):
    """nbconvert's exporter of slides, for a page without a network."""


def slides_html(notebook: Any, title: str, folder: Path) -> str:
    """Return the slides of an executed lesson as one page.

    Args:
        notebook: with its outputs; it is not changed.
        title: of the page.
        folder: folder of the lesson; images in its text are embedded from there.

    Raises:
        LabkitError: reveal.js is not installed.
    """
    exporter = _Slides(
        template_name="slides", extra_template_basedirs=[str(TEMPLATES)], embed_images=True
    )
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    exporter.register_preprocessor(WithoutEmptyOutputs(), enabled=True)
    page, _ = exporter.from_notebook_node(
        slide_notebook(notebook),
        {"metadata": {"name": title, "path": str(folder)}, "reveal_files": _reveal_files()},
    )
    return str(page)


def slide_notebook(notebook: Any) -> Any:
    """Return a notebook whose cells are a lesson's slides and speaker's notes."""
    import nbformat

    slides: list[_Slide] = []
    skipping = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in _HEADING.split(cell.source.strip()):
                if part.startswith("#"):
                    skipping = bool(LEFT_OUT.match(part))
                if part.strip() and not skipping:
                    slides.append(_Slide(*split_text(part), source=part))
        elif cell.cell_type == "code" and not skipping:
            shown = _shown_code(cell)
            if shown is None:
                continue
            if not slides or slides[-1].code is not None:
                slides.append(_Slide("", ""))
            slides[-1].code = shown
    cells: list[Any] = []
    for slide in slides:
        cells += slide.cells(first=not cells)
    copy = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    copy.nbformat_minor = 5
    return copy


@dataclass
class _Slide:
    """One slide.

    Attributes:
        text: what it shows above the code, Markdown.
        notes: what only the speaker's notes have.
        source: the whole text.
        code: the cell below the text.
    """

    text: str
    notes: str
    source: str = ""
    code: Any = None

    def cells(self, *, first: bool) -> list[Any]:
        """Its cells; a lone sentence is no slide, and joins the notes of the slide before it."""
        lone = self.code is None and not any(map(_SHOWN.match, _BLANK_LINE.split(self.text)))
        if lone and not first:
            return [_text(self.source, "notes")]
        kind = "slide" if re.match(r"##? ", self.text) or first else "subslide"
        cells = [_text(self.text, kind)] if self.text else []
        if self.notes:
            cells.append(_text(self.notes, "notes"))
        if self.code is not None:
            self.code.metadata["slideshow"] = {"slide_type": "-" if self.text else kind}
            cells.append(self.code)
        return cells


def split_text(source: str) -> tuple[str, str]:
    """Split a text into what a slide shows and what only the speaker's notes have.

    A slide shows headings, pictures, formulas and tables; of the first paragraph and of each point
    of a list the first sentence; and what the reader is to predict or to write.

    Returns:
        What is shown; and the whole of what was cut, or "".
    """
    shown, notes = [], []
    has_paragraph = False
    for block in _BLANK_LINE.split(source.strip()):
        if block.startswith(">") and "**Predict.**" not in block and "**Exercise" not in block:
            notes.append(block)
        elif _POINT.match(block):
            points = _POINT.sub(r"\n\g<0>", block).strip().split("\n\n")
            short = [_SENTENCE.split(point, maxsplit=1)[0].rstrip() for point in points]
            shown.append("\n".join(short))
            if short != [point.rstrip() for point in points]:
                notes.append(block)
        elif _SHOWN.match(block):
            shown.append(block)
        else:
            first, *more = _SENTENCE.split(block, maxsplit=1)
            if not has_paragraph:
                shown.append(first)
            if has_paragraph or more:
                notes.append(block)
            has_paragraph = True
    return "\n\n".join(shown), "\n\n".join(notes)


def _shown_code(cell: Any) -> Any | None:
    """The cell as a slide shows it; None if it is left out."""
    import nbformat

    tags = cell.metadata.get("tags", [])
    marks = cell.metadata.get("labkit", {})
    if (
        is_check(cell)
        or {"parameters", "injected-parameters"} & set(tags)
        or {"exercise", "solution"} & set(marks)
    ):
        return None
    outputs = [o for o in cell.get("outputs", []) if RECORD_MIME not in o.get("data", {})]
    if FOLDED in tags and not outputs:
        return None
    shown = nbformat.v4.new_code_cell(cell.source, outputs=outputs)
    if FOLDED in tags:
        shown.metadata["transient"] = {"remove_source": True}  # nbconvert's own name
    return shown


def _text(source: str, kind: str) -> Any:
    import nbformat

    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def _reveal_files() -> dict[str, str]:
    """Contents of reveal.js's script and style sheets."""
    if find_spec(REVEAL) is None:
        raise LabkitError(
            "slides need reveal.js, which is not installed: pip install 'labkit[slides]' (in a"
            " checkout: uv sync --extra slides)"
        )
    folder = resources.files(REVEAL) / "_static" / "revealjs"

    def together(*names: str) -> str:
        return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)

    css = together("dist/reset.css", "dist/reveal.css", "dist/theme/white.css")
    return {
        "css": FONTS.sub("", css),
        "js": together("dist/reveal.js", "plugin/notes/notes.js"),
    }
