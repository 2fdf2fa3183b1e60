from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.paths import CHECKOUT

from labkit.workbook import notebook_html as module
from labkit.workbook.notebook_html import notebook_html, to_mathml
from labkit.workbook.notebook_sources import load_notebook
from labkit.workbook.records import RECORD_MIME

TEXTS = sorted(
    path
    for pattern in ("notebooks/src/*.py", "assignments/*/*.ipynb")
    for path in CHECKOUT.glob(pattern)
)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


def test_page_needs_nothing_from_the_network(tmp_path: Path) -> None:
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "image/png": PIXEL,
        "text/plain": "a widget",
    }
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title\n\nInline $x < y$.\n\n$$\\sum_{i} x_i$$"),
            nbformat.v4.new_code_cell(
                "show()", outputs=[nbformat.v4.new_output("display_data", widget)]
            ),
        ],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}},
    )
    page = notebook_html(notebook, "Title", tmp_path)
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page)
    assert page.count("<math ") == 2
    assert f'src="data:image/png;base64,{PIXEL}"' in page


def test_picture_beside_the_notebook_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("![a](photo.png)")])
    assert 'src="data:image/png;base64,' in notebook_html(notebook, "x", tmp_path)


@pytest.mark.parametrize(
    ("link", "in_report"),
    [
        ("03_mask_rcnn.ipynb", "03_mask_rcnn.html"),
        ("03_mask_rcnn.ipynb#3.7-Average-precision", "03_mask_rcnn.html#3.7-Average-precision"),
        ("https://example.org/a.ipynb", "https://example.org/a.ipynb"),
    ],
)
def test_link_to_another_lesson_leads_to_its_page(
    link: str, in_report: str, tmp_path: Path
) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"See [there]({link}).\n\n## 3.7 Average precision")]
    page = notebook_html(nbformat.v4.new_notebook(cells=cells), "x", tmp_path)
    assert f'<a href="{in_report}">there</a>' in page
    assert 'id="3.7-Average-precision"' in page  # as JupyterLab names headings


def test_link_to_a_file_outside_of_the_report_is_text(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_markdown_cell("See the [glossary](../docs/glossary.md).")]
    page = notebook_html(nbformat.v4.new_notebook(cells=cells), "x", tmp_path)
    assert "<p>See the glossary.</p>" in page


def test_drawing_beside_the_notebook_is_embedded_with_its_alternative_text() -> None:
    drawing = CHECKOUT / "notebooks" / "diagrams" / "fpn.svg"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("![a pyramid](diagrams/fpn.svg)")]
    )
    page = notebook_html(notebook, "x", CHECKOUT / "notebooks")
    data = base64.b64encode(drawing.read_bytes()).decode()
    assert f'src="data:image/svg+xml;base64,{data}"' in page
    assert 'alt="a pyramid"' in page


def test_formula() -> None:
    assert "<mfrac>" in to_mathml(r"\frac{1}{2}", block=False)
    assert "<munder>" in to_mathml(r"\sum_{i} x_i", block=True)
    assert "<msub>" in to_mathml(r"\sum_{i} x_i", block=False)
    assert "<mtable" in to_mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", block=True)


def test_operators_of_latex_are_known() -> None:
    assert "<mo>arg</mo><munder><mo>min</mo>" in to_mathml(r"\arg\min_{\sigma} C", block=True)
    names = "arcsin arccos arctan sin cos tan cot csc sec sinh cosh tanh coth exp ln lg log"
    names += " arg deg det dim gcd hom inf ker lim liminf limsup max min Pr sup"
    unknown = [n for n in names.split() if "<code>" in to_mathml(f"\\{n}_x y", block=True)]
    assert unknown == []


@pytest.mark.parametrize("source", TEXTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_formula_of_the_workbook_is_converted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: dict[str, str] = {}

    def convert(tex: str, *, block: bool) -> str:
        return converted.setdefault(tex, to_mathml(tex, block=block))

    monkeypatch.setattr(module, "to_mathml", convert)
    cells = [cell for cell in load_notebook(source).cells if cell.cell_type == "markdown"]
    for cell in cells:
        cell.source = re.sub(
            r"!\[[^]]*\]\([^)]*\)", "", cell.source
        )  # pictures are not of interest
    page = notebook_html(nbformat.v4.new_notebook(cells=cells), "x", tmp_path)
    assert [tex for tex, mathml in converted.items() if not mathml.startswith("<math ")] == []
    assert [tex for tex, mathml in converted.items() if "\\" in mathml] == []  # as in \texttt{a\_b}
    body = page.partition("<main>")[2]
    words = re.sub(r"<code>.*?</code>|<pre.*?</pre>|<math .*?</math>", "", body, flags=re.DOTALL)
    assert re.findall(r"\\[a-z]+|\$\$", words) == []  # a formula that was not recognised as one


@pytest.mark.parametrize("tex", [r"\nosuchcommand{x} < 1", r"\left( x"])
def test_formula_that_cannot_be_converted_stays_readable(tex: str) -> None:
    assert to_mathml(tex, block=True) == f"<code>{tex.replace('<', '&lt;')}</code>"


def test_cell_that_is_folded_shows_its_first_comment_and_its_outputs(tmp_path: Path) -> None:
    printed = nbformat.v4.new_output("stream", text="7\n")
    folded = nbformat.v4.new_code_cell(
        "# Set-up: imports & data\nhidden = 7", metadata={"tags": ["hide-input"]}, outputs=[printed]
    )
    notebook = nbformat.v4.new_notebook(cells=[folded, nbformat.v4.new_code_cell("shown = 8")])
    page = notebook_html(notebook, "x", tmp_path)
    details = re.findall(r"<details class=\"folded.*?</details>", page, re.DOTALL)
    assert len(details) == 1
    assert "<summary>Set-up: imports &amp; data</summary>" in details[0]
    assert "hidden" in details[0]
    assert "<pre>7\n</pre>" not in details[0]
    assert "<pre>7\n</pre>" in page
    assert "shown" in page.replace(details[0], "")


def test_finished_progress_bar_leaves_nothing(tmp_path: Path) -> None:
    bar = nbformat.v4.new_output("stream", text="\r  0%|   | 0/4\r100%|###| 4/4\r             \r")
    cell = nbformat.v4.new_code_cell("progress_bar()", outputs=[bar])
    page = notebook_html(nbformat.v4.new_notebook(cells=[cell]), "x", tmp_path)
    assert "%|" not in page
    assert 'data-mime-type="application/vnd.jupyter.stdout"' not in page


def test_records_are_one_line_below_the_cell(tmp_path: Path) -> None:
    def printed(text: str) -> Any:
        return nbformat.v4.new_output("stream", text=text)

    def recorded(name: str, value: Any) -> Any:
        data = {RECORD_MIME: {"name": name, "value": value}}
        return nbformat.v4.new_output("display_data", data)

    outputs = [printed("one\n"), recorded("<b>", 1), printed("two\n"), recorded("c", [1, 0.25])]
    cell = nbformat.v4.new_code_cell("record()", outputs=[*outputs, recorded("<b>", 2)])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    page = notebook_html(notebook, "x", tmp_path)
    assert page.count(">recorded: 2 values<") == 1
    assert "</summary><b>&lt;b&gt;</b> 2 · <b>c</b> [1, 0.25]<" in page
    assert page.count("<pre>one\ntwo\n</pre>") == 1
    assert len(notebook.cells[0].outputs) == 5  # the notebook itself stays as it is
