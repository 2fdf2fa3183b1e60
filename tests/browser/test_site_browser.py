"""The built site: warnings, links, requests, console, axe, phone, keyboard."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from helpers.paths import CHECKOUT
from helpers.site_checks import Visit, dead_links, pages, served
from PIL import Image

from labkit.site import build_site as building
from labkit.site import reference_pages
from labkit.site.build_site import BuiltSite, build_site
from labkit.site.site_links import DOCUMENTS
from labkit.widgets.offline_page import MIME as OFFLINE
from labkit.workbook.notebook_sources import load_notebook
from labkit.workbook.records import RECORD_MIME

LESSONS = ("01_semantic_review", "06_panoptic_quality")
ASSIGNMENT = "w1_semantic"
WIDGET = "application/vnd.jupyter.widget-view+json"
ANSWERS = """<p class='answers'></p>
<script>document.currentScript.previousElementSibling.textContent = 6 * 7</script>"""
LESSON = "lessons/06_panoptic_quality.html"


def checkout(root: Path) -> Path:
    """A checkout with two lessons and an assignment."""
    for document in (*DOCUMENTS, "docs/shapes.png"):
        if (CHECKOUT / document).is_file():
            (root / document).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / document, root / document)
    for folder in ("diagrams", "thumbnails"):
        shutil.copytree(CHECKOUT / "notebooks" / folder, root / "notebooks" / folder)
    (root / "notebooks" / "src").mkdir()
    for name in LESSONS:
        shutil.copy(CHECKOUT / "notebooks" / "src" / f"{name}.py", root / "notebooks" / "src")
    released = Path("assignments") / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    (root / released).parent.mkdir(parents=True)
    shutil.copy(CHECKOUT / released, root / released)
    return root


def outputs(number: int) -> list[nbformat.NotebookNode]:
    """Outputs of each kind that a lesson has."""
    stream = io.BytesIO()
    Image.new("RGB", (700, 300), (40, 90, 20 * number % 256)).save(stream, "png")
    png = base64.b64encode(stream.getvalue()).decode()
    output = nbformat.v4.new_output
    kinds = [
        [output("display_data", {"image/png": png, "text/plain": "<Figure size 700x300>"})],
        [output("execute_result", {"image/png": png, "text/plain": "PQ 71", WIDGET: {}})],
        [
            output(
                "execute_result",
                {"image/png": png, "text/plain": "x", WIDGET: {}, OFFLINE: ANSWERS},
            )
        ],
        [output("stream", name="stdout", text="a table\n" + "wide " * 60)],
        [output("stream", name="stderr", text="100%|#####|")],
        [output("display_data", {RECORD_MIME: {"name": "secret_record", "value": 1.0}})],
        [output("display_data", {"text/html": "<div><b>all 5 checks pass</b></div>"})],
    ]
    return kinds[number % len(kinds)]


def without_a_model(folder: Path) -> None:
    """The scripts of the live model, which has its own tests, left empty."""
    (folder / "live").mkdir()
    for name in ("live.js", "live.css"):
        (folder / "live" / name).touch()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltSite]:
    folder = tmp_path_factory.mktemp("site")
    root, run = checkout(folder / "checkout"), folder / "run"
    executed = load_notebook(root / "notebooks" / "src" / f"{LESSONS[1]}.py")
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        cell.outputs = outputs(number)
    run.mkdir()
    nbformat.write(executed, run / f"{LESSONS[1]}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_pages, "PARTS", {"metrics": "Metrics", "checks": "Checks"})
        patch.setattr(building, "write_live", without_a_model)
        yield build_site(root, run, folder / "out", "https://github.com/someone/labkit")


def text(site: BuiltSite, page: str) -> str:
    return (site.folder / page).read_text(encoding="utf-8")


def test_the_generator_has_no_complaints(site: BuiltSite) -> None:
    assert site.warnings == []
    assert site.not_executed == [LESSONS[0]]


def test_no_dead_link_and_nothing_from_elsewhere(site: BuiltSite) -> None:
    assert dead_links(site.folder) == []
    assert len(pages(site.folder)) > 15


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text("<p id=here>")
    (tmp_path / "a.html").write_text(
        '<a href="c.html"></a><a href="b.html#there"></a><a href="b.html#here"></a>'
        '<a href="https://example.org"></a><script src="https://example.org/x.js"></script>'
    )
    assert dead_links(tmp_path) == [
        "a.html: c.html does not exist",
        "a.html: b.html#there has no such place",
        "a.html: https://example.org/x.js is loaded from elsewhere",
    ]


def test_a_lesson_has_its_figures_and_formulas_and_no_records(site: BuiltSite) -> None:
    page = text(site, LESSON)
    assert page.count("<math") > 20
    assert "secret_record" not in page
    assert "100%|" not in page
    assert WIDGET not in page
    assert 'alt="PQ 71"' in page
    assert 'alt="Figure' in page


def test_an_exercise_is_open_and_its_solution_folded(site: BuiltSite) -> None:
    page = text(site, LESSON)
    stub = page.index("NotImplementedError")
    assert "<details" not in page[page.rindex('<div class="cell', 0, stub) : stub]
    assert page.index("Solution of exercise 6.1") > stub


def test_a_lesson_that_was_not_run_says_so(site: BuiltSite) -> None:
    said = "made without running the lesson"
    assert said in text(site, "lessons/01_semantic_review.html")
    assert said not in text(site, LESSON)


def test_papers_and_sections_are_linked(site: BuiltSite) -> None:
    metrics = text(site, "reference/metrics.html")
    assert "https://arxiv.org/abs/1801.00868" in metrics
    assert "../lessons/06_panoptic_quality.html#section-6-4" in metrics
    assert "https://arxiv.org/abs/1801.00868" in text(site, LESSON)


KINDS = (
    "index.html",
    LESSON,
    f"assignments/{ASSIGNMENT}.html",
    "glossary.html",
    "commands.html",
    "reference/metrics.html",
    "search.html",
)


def test_every_page_from_the_disk(site: BuiltSite, browser) -> None:
    """No request but for files, no message in the console."""
    visit = Visit(browser, site.folder.resolve().as_uri())
    for name in pages(site.folder):
        visit.open(name)
    assert visit.close() == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_every_kind_of_page_from_a_server(site: BuiltSite, browser, scheme, width) -> None:
    """The same, nothing serious from axe, and no page that is wider than the window."""
    with served(site.folder) as address:
        visit = Visit(browser, address, scheme, width)
        for name in KINDS:
            visit.open(name, axe=True)
            assert not visit.overflows(), name
        assert visit.close() == []


@pytest.mark.parametrize("width", [1250, 1400])
def test_lines_of_code_do_not_scroll_beside_both_sidebars(site: BuiltSite, browser, width) -> None:
    visit = Visit(browser, site.folder.resolve().as_uri(), width=width)
    for name in LESSONS:
        visit.open(f"lessons/{name}.html")
        assert visit.page.locator(".bd-sidebar-secondary").is_visible()
        cells = visit.page.evaluate(
            """() => {
                document.querySelectorAll("details").forEach((part) => (part.open = true));
                return Array.from(document.querySelectorAll(".cell_input pre"), (cell) => [
                    Math.max(...cell.textContent.split("\\n").map((line) => line.length)),
                    cell.scrollWidth > cell.clientWidth,
                ]);
            }"""
        )
        assert max(columns for columns, _ in cells) > 90
        assert not [columns for columns, scrolls in cells if scrolls and columns <= 100]
    assert visit.close() == []


def test_what_axe_finds_is_told(tmp_path: Path, browser) -> None:
    (tmp_path / "a.html").write_text(
        "<!DOCTYPE html><html lang=en><title>a</title><link rel=icon href='data:,'>"
        "<main><h1>a</h1><p style='color:#ccc'>pale</p><img src='data:,'></main>"
    )
    visit = Visit(browser, tmp_path.as_uri())
    visit.open("a.html", axe=True)
    told = "\n".join(visit.close())
    assert "axe: color-contrast" in told
    assert "axe: image-alt" in told


def test_a_message_and_a_request_are_told(tmp_path: Path, browser) -> None:
    (tmp_path / "a.html").write_text(
        "<title>a</title><link rel=icon href='data:,'>"
        "<script>console.error('oh'); fetch('http://127.0.0.1:9/x').catch(() => 0)</script>"
    )
    visit = Visit(browser, tmp_path.as_uri())
    visit.open("a.html")
    visit.page.wait_for_timeout(200)
    told = "\n".join(visit.close())
    assert "a.html: console: oh" in told
    assert "a.html: request: http://127.0.0.1:9/x" in told


def test_search_finds_a_lesson_from_the_disk(site: BuiltSite, browser) -> None:
    visit = Visit(browser, site.folder.resolve().as_uri())
    visit.open("search.html?q=panopticapi")
    visit.page.locator("#search-results a", has_text="Panoptic quality").first.wait_for()
    assert visit.close() == []


def test_a_widget_answers_without_a_kernel(site: BuiltSite, browser) -> None:
    visit = Visit(browser, site.folder.resolve().as_uri())
    visit.open(LESSON)
    assert visit.page.locator(".answers").first.inner_text() == "42"
    assert visit.close() == []


def test_a_lesson_opens_in_colab_and_binder(site: BuiltSite) -> None:
    page = text(site, LESSON)
    assert "https://colab.research.google.com/github/someone/labkit/blob/gh-pages/" in page
    assert "https://mybinder.org/v2/gh/someone/labkit/main" in page
    notebook = load_notebook(site.folder / "notebooks" / f"{LESSONS[1]}.ipynb")
    assert "google.colab" in notebook.cells[0].source


def test_the_start_page_by_keyboard(site: BuiltSite, browser) -> None:
    visit = Visit(browser, site.folder.resolve().as_uri())
    visit.open("index.html")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
    visit.page.keyboard.press("Enter")
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.matches('.lk-card')"):
            break
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/lessons/01_semantic_review.html")
    assert visit.close() == []
