"""`labkit lab` in a real browser."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from helpers.paths import CHECKOUT

from labkit.workbook.notebook_sources import sync

DRAWN = """() => [...document.querySelectorAll(".jp-RenderedMarkdown img")]
    .map((img) => [img.alt, img.complete, img.naturalWidth])"""


def test_labkit_lab_opens_a_notebook_that_runs(start_lab, tmp_path: Path) -> None:
    source = tmp_path / "notebooks" / "src" / "06_panoptic_quality.py"
    source.parent.mkdir(parents=True)
    text = (CHECKOUT / "notebooks" / "src" / source.name).read_text(encoding="utf-8")
    assert 'profile: str = "quick"' in text
    source.write_text(text.replace('profile: str = "quick"', 'profile: str = "smoke"'))
    sync(tmp_path)
    labkit = [sys.executable, "-m", "labkit"]
    lab = start_lab([*labkit, "lab", "6", "--no-browser", "--allow-root"], tmp_path)
    page = lab.visit("notebooks/06_panoptic_quality.ipynb", address="")
    assert page.url.partition("?")[0] == f"{lab.url}/lab/tree/notebooks/06_panoptic_quality.ipynb"
    lab.run_all(page, seconds=300)
    assert page.locator(".jp-RenderedImage img").count() > 0
    assert page.locator(".Toastify__toast").count() == 0  # no question about news
    lab.screenshot(page, "lab")


def test_labkit_lab_opens_the_start_page(start_lab, tmp_path: Path) -> None:
    """Shown as a page; a picture of each lesson, and a click opens the lesson."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "src").mkdir(parents=True)
    (notebooks / "src" / "01_semantic_review.py").write_text("# %% [markdown]\n# # 1. First\n")
    shutil.copytree(CHECKOUT / "notebooks" / "thumbnails", notebooks / "thumbnails")
    sync(tmp_path)
    lab = start_lab(
        [sys.executable, "-m", "labkit", "lab", "--no-browser", "--allow-root"], tmp_path
    )
    page = lab.context.new_page()
    page.goto(f"{lab.url}/?token={lab.server.token}")
    shown = page.locator(".jp-MarkdownViewer")
    shown.get_by_role("heading", name="Lessons").wait_for()
    page.wait_for_function(
        "() => document.querySelector('.jp-MarkdownViewer img')?.naturalWidth === 560"
    )
    lab.screenshot(page, "start_page")
    shown.get_by_role("link", name="1. First").click()
    page.locator(".jp-NotebookPanel").wait_for()


def test_a_drawing_beside_the_notebook_is_shown_in_a_copy(start_lab, tmp_path: Path) -> None:
    notebooks = tmp_path / "workbook" / "notebooks"
    (notebooks / "src").mkdir(parents=True)
    (notebooks / "src" / "01_first.py").write_text(
        "# %% [markdown]\n# ![a pyramid](diagrams/fpn.svg)\n", encoding="utf-8"
    )
    shutil.copytree(CHECKOUT / "notebooks" / "diagrams", notebooks / "diagrams")
    sync(tmp_path / "workbook")
    labkit = [sys.executable, "-m", "labkit", "lab", "1", "--copy", str(tmp_path / "mine")]
    lab = start_lab([*labkit, "--no-browser", "--allow-root"], tmp_path / "workbook")
    page = lab.visit("notebooks/01_first.ipynb", address="")
    page.locator(".jp-RenderedMarkdown img").wait_for()
    page.wait_for_function(f"({DRAWN})().every(([, complete]) => complete)")
    assert page.evaluate(DRAWN) == [["a pyramid", True, 1000]]
    lab.screenshot(page, "diagram")
