"""Conversion of an executed notebook to one HTML file that works without a network.

nbconvert's own page loads MathJax, require.js and the widget manager from a CDN and is bare
without them. Here formulas are written as MathML, which browsers show by themselves, and a
widget is represented by the picture in its MIME bundle.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from traitlets.config import Config

from labkit.system.message_text import counted
from labkit.workbook.exercises import FOLDED
from labkit.workbook.records import RECORD_MIME, format_value

TEMPLATES = Path(__file__).parent / "templates"

# What a page without scripts can show, best first.
DISPLAY_PRIORITY = [
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]
# Operators whose bounds stand above and below in a display formula.
_WITH_LIMITS = re.compile(r"\\(sum|prod|bigcup|bigcap|max|min|sup|inf|lim)(?=\s*[_^])(?!\\limits)")


def to_mathml(tex: str, *, block: bool) -> str:
    """Convert a TeX formula to MathML, or to its source as code where that fails."""
    source = re.sub(r"\b(begin|end)\{aligned\}", r"\1{align*}", tex.strip())
    source = re.sub(r"\\operatorname\*", r"\\operatorname", source)
    # The converter knows every named operator of LaTeX but this one.
    source = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", source)
    if block:
        source = _WITH_LIMITS.sub(r"\\\1\\limits", source)
    try:
        mathml = convert(source, display="block" if block else "inline")
    except Exception:  # the converter raises a dozen unrelated classes on TeX it does not know
        mathml = "<mi>\\"
    if "<mi>\\" in mathml:  # a command it does not know is passed through as a name
        return f"<code>{html.escape(tex)}</code>"
    return str(mathml)


class _Renderer(IPythonRenderer):
    def block_math(self, body: str) -> str:
        return to_mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return to_mathml(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Link to another lesson's page, which lies beside this one in the report.

        What lies outside of the notebooks' folder is not in the report: its text stays, unlinked.
        """
        if url.startswith("../"):
            return text
        return super().link(text, re.sub(r"^([^/]+)\.ipynb(?=#|$)", r"\1.html", url), title)


class Offline:
    """What nbconvert's exporters of HTML need for a page without a network: formulas as MathML,
    images within the page, and of every output what is shown without scripts."""

    @property
    def default_config(self) -> Config:
        config = Config({"NbConvertBase": {"display_data_priority": DISPLAY_PRIORITY}})
        merged = super().default_config.copy()  # type: ignore[misc]
        merged.merge(config)
        return merged

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,  # type: ignore[attr-defined]
        )
        return str(MarkdownWithMath(renderer=renderer).render(source))


class OfflineExporter(Offline, HTMLExporter):
    """nbconvert's HTML exporter with MathML and without scripts."""


class _ShowRecords(Preprocessor):
    """Adds a cell's records below its outputs, folded into one line."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        outputs = cell.get("outputs", [])
        records = [o.data[RECORD_MIME] for o in outputs if RECORD_MIME in o.get("data", {})]
        if records:
            values = {record["name"]: format_value(record["value"]) for record in records}
            pairs = [f"<b>{html.escape(n)}</b> {html.escape(v)}" for n, v in values.items()]
            summary = f"<summary>recorded: {counted(len(values), 'value')}</summary>"
            line = f'<details class="recorded">{summary}{" · ".join(pairs)}</details>'
            seen = nbformat.v4.new_output("display_data", {"text/html": line})
            cell.outputs = [o for o in outputs if RECORD_MIME not in o.get("data", {})] + [seen]
        return cell, resources


class WithoutEmptyOutputs(Preprocessor):
    """Removes streams of white space alone, which finished progress bars leave."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("text", "a stream").strip()]
        return cell, resources


def folded_title(cell: Any) -> str | None:
    """Return what a folded cell says of itself, its first comment; None for a visible one."""
    if FOLDED not in cell.metadata.get("tags", []):
        return None
    first = cell.source.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else "Code"


def notebook_html(notebook: Any, title: str, folder: Path) -> str:
    """Return the page of an executed notebook.

    Args:
        folder: folder of the notebook; images in its text are embedded from there.
    """
    exporter = OfflineExporter(
        template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], embed_images=True
    )
    # First, so that what was printed before and after a record is one text.
    exporter.register_preprocessor(_ShowRecords(), enabled=True)
    # A progress bar redraws one line hundreds of times: keep what a terminal would show at the end.
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    exporter.register_preprocessor(WithoutEmptyOutputs(), enabled=True)
    exporter.register_filter("folded_title", folded_title)
    resources = {"metadata": {"name": title, "path": str(folder)}}
    page, _ = exporter.from_notebook_node(notebook, resources)
    return str(page)
