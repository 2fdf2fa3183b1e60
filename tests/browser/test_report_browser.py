"""A notebook's page of `labkit run` in a browser: light and dark, as the reader's settings are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from helpers.site_checks import Visit
from PIL import Image

from labkit.workbook.notebook_html import notebook_html
from labkit.workbook.records import RECORD_MIME

COLOURS = """([selector, property]) =>
    getComputedStyle(document.querySelector(selector))[property].match(/[0-9]+/g).map(Number)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with each kind of output that a lesson has."""
    stream = io.BytesIO()
    Image.new("RGBA", (300, 100), (0, 0, 0, 0)).save(stream, "png")  # transparent
    png = base64.b64encode(stream.getvalue()).decode()
    output = nbformat.v4.new_output
    outputs = [
        output("stream", name="stdout", text="PQ 71.3"),
        output("display_data", {"image/png": png, "text/plain": "<Figure>"}),
        output("display_data", {"text/html": "<table><tr><th>a</th><td>1</td></tr></table>"}),
        output("display_data", {RECORD_MIME: {"name": "pq", "value": 71.3}}),
    ]
    folded = nbformat.v4.new_code_cell("# Figure: a\nplot()", outputs=outputs)
    folded.metadata["tags"] = ["hide-input"]
    cells = [
        nbformat.v4.new_markdown_cell("# A lesson\n\nText, `code`, a [link](b.ipynb), $x^2$."),
        nbformat.v4.new_code_cell('def f(x):\n    """Text."""\n    return 2 * x  # twice'),
        folded,
    ]
    folder = tmp_path_factory.mktemp("report")
    made = notebook_html(nbformat.v4.new_notebook(cells=cells), "A lesson", folder)
    (folder / "a.html").write_text(made, encoding="utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_reader_s_settings(page: Path, browser, scheme: str) -> None:
    visit = Visit(browser, page.resolve().as_uri(), scheme, width=1000)
    visit.open("a.html")

    def brightness(selector: str, what: str) -> float:
        red, green, blue = visit.page.evaluate(COLOURS, [selector, what])[:3]
        return (red + green + blue) / 3

    for text in ("h1", ".jp-RenderedText pre", ".folded summary", ".recorded summary"):
        assert (brightness(text, "color") > 128) == (scheme == "dark"), text
    assert (brightness("body", "backgroundColor") < 128) == (scheme == "dark")
    if scheme == "dark":  # below the transparent parts of a figure
        assert brightness(".jp-RenderedImage img", "backgroundColor") == 255
    assert visit.close() == []
