"""Sphinx extension of the site: formulas as MathML, links in docstrings."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from labkit.site.papers import link_quoted_titles
from labkit.workbook.notebook_html import to_mathml

LONG = 45
"""Characters of a formula within a line that may not fit into 40 rem."""

_INDENTED = re.compile(r"(?<!::)\n\n(?=    \S)")
_SECTION = re.compile(r"\b([Nn]otebook\s+\d\d,\s+section\s+)(\d+\.\d+)")


def inline_formula(translator: Any, node: nodes.Element) -> None:
    """Write a formula within a line; one that may be wider than a phone can scroll there."""
    formula = to_mathml(node.astext(), block=False)
    long = len(node.astext()) > LONG
    translator.body.append(f'<span class="lk-long">{formula}</span>' if long else formula)
    raise nodes.SkipNode


def displayed_formula(translator: Any, node: nodes.Element) -> None:
    """Write a formula of its own line, which scrolls where it is wider than the page."""
    formula = to_mathml(node.astext(), block=True)
    translator.body.append(f'<div class="lk-formula" tabindex="0">{formula}</div>')
    raise nodes.SkipNode


def link_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Link the papers and the sections of lessons that a docstring names.

    In the docstring of a module, what is indented is an example or a table, shown as it is.
    """
    text = link_quoted_titles("\n".join(lines))
    if what == "module":
        text = _INDENTED.sub("\n\n.. code-block:: text\n\n", text)

    def linked(match: re.Match[str]) -> str:
        if match[2] not in app.config.labkit_sections:
            return match[0]
        words = " ".join(f"{match[1]}{match[2]}".split())
        return f":ref:`{words} <section-{match[2]}>`"

    lines[:] = _SECTION.sub(linked, text).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(inline_formula, None),
        block_renderers=(displayed_formula, None),
    )
    # Numbers of the lessons' sections, which have labels.
    app.add_config_value("labkit_sections", default=[], rebuild="env")
    app.connect("autodoc-process-docstring", link_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
