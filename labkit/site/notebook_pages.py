"""Pages of lessons and assignments: notebooks as the site's generator reads them.

A lesson's page is made of the executed notebook, which is the solved edition. The reader of a page
should have what a student has: the function to complete stands open, its solution is folded below,
and the output of the check shows what a right answer gives. It is the order of a student's copy
(``labkit lab --copy``), in which the solution is folded as well.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from labkit.site.live.placement import with_live
from labkit.site.papers import link_references
from labkit.site.site_links import SiteLinks
from labkit.widgets.offline_page import MIME as OFFLINE
from labkit.workbook.notebook_html import WithoutEmptyOutputs, folded_title
from labkit.workbook.records import RECORD_MIME

WIDGET = "application/vnd.jupyter.widget-view+json"
"""Output of a widget with a kernel; beside it are a picture and a piece that needs none."""

ROOT = "../"
"""From a page of a lesson to the folder of the site."""

NOT_EXECUTED = """:::{note}
This page was made without running the lesson, so it has no figures and numbers.
:::"""


def lesson_page(
    executed: Any | None, source: Any, student: Any, name: str, links: SiteLinks, facts: str
) -> Any:
    """Make the page of a lesson.

    Args:
        executed: the executed notebook; None if the lesson was not run.
        source: the notebook without outputs, solved edition.
        student: the same, the student's edition.
        name: of the lesson.
        links: of the site.
        facts: HTML below the title.
    """
    path = f"notebooks/{name}.ipynb"
    stubs = {
        cell.metadata.labkit.exercise: cell.source
        for cell in student.cells
        if "exercise" in cell.metadata.get("labkit", {})
    }
    page = _copy(executed if executed is not None else source)
    below = [facts] if executed is not None else [facts, NOT_EXECUTED]
    cells: list[Any] = []
    for cell in with_live(page.cells, name, ROOT):
        if cell.cell_type == "markdown":
            text = links.rewrite(link_references(cell.source), path)
            if not cells:
                text = _with_facts(text, below)
            cell.source = links.with_labels(text, path)
        solution = cell.metadata.get("labkit", {}).get("solution")
        if solution in stubs:
            cells.append(_code(stubs[solution]))
        cells.append(cell)
    page.cells = cells
    return _prepared(page)


def assignment_page(notebook: Any, path: str, links: SiteLinks, facts: str) -> Any:
    """Make the page of an assignment from the released notebook, which has no solutions.

    Args:
        notebook: the students' notebook.
        path: its file in the repository.
        links: of the site.
        facts: HTML below the title.
    """
    page = _copy(notebook)
    for cell in page.cells:
        role = cell.metadata.get("labkit", {}).get("role")
        if cell.cell_type == "markdown":
            cell.source = links.rewrite(cell.source, path)
        elif role in ("setup", "check"):
            title = "Set-up" if role == "setup" else "Checks that the notebook runs at once"
            cell.metadata["tags"] = ["hide-input"]
            cell.source = f"# {title}\n{cell.source}"
    page.cells[0].source = _with_facts(page.cells[0].source, [facts])
    return _prepared(page)


def figure_text(cell: Any, output: Any) -> str:
    """The alternative text of a cell's picture.

    It is the text that the output itself has, or what the cell says that it draws.
    """
    text = output.data.get("text/plain", "")
    text = text if isinstance(text, str) else "".join(text)
    if text and not re.match(r"<.*>$", text.strip(), re.DOTALL):
        return " ".join(text.split())
    first = cell.source.partition("\n")[0]
    return first.lstrip("# ").rstrip(".") if first.startswith("#") else "Figure of the code above"


def _prepared(page: Any) -> Any:
    """Leave of the outputs what a page shows, and name what is folded."""
    page, _ = CoalesceStreamsPreprocessor().preprocess(page, {})
    page, _ = WithoutEmptyOutputs().preprocess(page, {})
    for cell in page.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = list(_shown(cell))
        title = folded_title(cell)
        shown = {"code_prompt_show": title, "code_prompt_hide": title} if title else {}
        cell.metadata["mystnb"] = {**shown, "image": {"alt": _alternative(cell)}}
    page.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    return page


def _shown(cell: Any) -> Iterable[Any]:
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        data = output.get("data", {})
        if RECORD_MIME in data:
            continue
        data.pop(WIDGET, None)
        if OFFLINE in data:
            output.data = {"text/html": data[OFFLINE], "text/plain": data.get("text/plain", "")}
        yield output


def _alternative(cell: Any) -> str:
    for output in cell.outputs:
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            return figure_text(cell, output)
    return ""


def _with_facts(first: str, below: list[str]) -> str:
    """The text of the first cell with something below its title."""
    title, _, rest = first.partition("\n")
    return "\n\n".join([title, *below, rest.strip()])


def facts_html(facts: Iterable[str], links: Iterable[tuple[str, str]]) -> str:
    """HTML of the line below a title: facts, then links as (text, address)."""
    points = [f"<li>{html.escape(fact)}</li>" for fact in facts if fact]
    points += [
        f'<li><a href="{html.escape(address)}">{html.escape(text)}</a></li>'
        for text, address in links
    ]
    return f'<ul class="lk-facts">{"".join(points)}</ul>'


def _copy(notebook: Any) -> Any:
    import nbformat

    return nbformat.reads(nbformat.writes(notebook), as_version=4)


def _code(source: str) -> Any:
    import nbformat

    return nbformat.v4.new_code_cell(source)
