"""The comparison of models in JupyterLab: by mouse, by keyboard, with what may go wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.seen import canvas_pixels
from PIL import Image

from labkit.widgets.compare.compare import MEMORY, run_models
from labkit.widgets.viewer.segment_layers import draw_layer, enlargement

MODELS = ["panoptic_fpn_tiny", "panoptic_fpn_tiny_c4", "upsnet_tiny", "mask_rcnn_tiny"]
APP = ".labkit-compare"
PICTURES = Path(__file__).resolve().parents[2] / "runs" / "browser"
CELLS = [f"from labkit.widgets import Compare\nCompare({MODELS}, ('shapes', 3))"]


def pixels(page: Any, number: int) -> np.ndarray:
    return canvas_pixels(page.locator(f"{APP} .labkit-viewer-picture").nth(number))[..., :3]


def assert_as_the_twin(page: Any, index: int, score: float | None, difference: bool) -> None:
    """Every panel shows the twin's pixels, and the table the twin's numbers."""
    comparison = run_models(MODELS, ("shapes", index), MEMORY)
    image = comparison.picture.image
    views = comparison.views(score)
    layers = comparison.layers(views, difference)
    scale = enlargement(*image.shape[1:])
    titles = [layer.title for layer in layers]
    page.wait_for_function(
        "(titles) => JSON.stringify(titles) === JSON.stringify(Array.from("
        "document.querySelectorAll('.labkit-viewer figcaption'), (e) => e.innerText))",
        arg=titles,
    )
    for number, layer in enumerate(layers):
        expected = draw_layer(image, layer, 0.6, scale=scale)
        for _ in range(50):  # the titles come first, the canvas is drawn when it is unpacked
            if np.array_equal(pixels(page, number), expected):
                break
            page.wait_for_timeout(200)
        else:
            pytest.fail(f"{layer.title}: other pixels than the twin's")
    table = page.locator(f"{APP} .labkit-table").inner_text()
    for view in views:
        if view.quality is not None:
            assert f"{100 * view.quality.all.pq:.1f}" in table


def change(lab: Any, page: Any, action: Any) -> None:
    """Do something to the app and wait until it has answered."""
    seen = lab.changes(page, "compare")
    action()
    lab.wait_for_change(page, "compare", seen)


@pytest.fixture
def page(lab: Any) -> Any:
    page = lab.open(CELLS, "compare")
    lab.wait_for_change(page, "compare", 0)
    return page


def score_of(page: Any) -> float:
    return float(page.locator(f"{APP} .widget-readout").first.inner_text())


def test_with_the_mouse(lab: Any, page: Any) -> None:
    app = page.locator(APP)
    assert_as_the_twin(page, 3, None, False)
    lab.screenshot(app, "compare")
    change(lab, page, app.get_by_label("difference to the ground truth").click)
    assert_as_the_twin(page, 3, None, True)
    lab.screenshot(app, "compare_difference")
    area = app.locator(".noUi-target").bounding_box()
    place = (area["x"] + area["width"] * 0.95, area["y"] + area["height"] / 2)
    change(lab, page, lambda: page.mouse.click(*place))
    assert score_of(page) > 0.8
    assert_as_the_twin(page, 3, score_of(page), True)
    change(lab, page, app.get_by_role("checkbox", name="mask_rcnn_tiny").click)
    assert app.locator("figure").count() == len(MODELS)  # the truth and three
    # Pointing at a pixel says what each panel has there.
    box = app.locator(".labkit-viewer-picture").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.42, box["y"] + box["height"] * 0.4)
    for text in app.locator(".labkit-viewer-readout").all_inner_texts():
        assert "circle" in text


SIZES = """(selector) => Array.from(document.querySelectorAll(selector))
    .filter((e) => e.offsetParent !== null)  // what is shown
    .map((e) => e.getBoundingClientRect())
    .map((box) => [box.left, box.right, box.width, box.height].map(Math.round))"""


def test_panels_of_one_size_on_any_page(lab: Any, page: Any) -> None:
    """Compact controls, equal panels that fill the width, nothing cut off at a side."""
    for width, height in ((1400, 1000), (1280, 720), (900, 720)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(500)
        ((left, right, _, _),) = page.evaluate(SIZES, APP)
        panels = page.evaluate(SIZES, f"{APP} .labkit-viewer-picture")
        assert len(panels) == len(MODELS) + 1
        assert len({(w, h) for _, _, w, h in panels}) == 1
        widest = max(panel[1] for panel in panels)
        assert right - 40 <= widest <= right or panels[0][2] == 512  # as large as they are drawn
        ((_, _, _, controls),) = page.evaluate(SIZES, f"{APP} .labkit-controls")
        assert controls < (130 if width > 1000 else 220)
        for part in (".labkit-controls input", ".labkit-controls label", ".labkit-remarks p"):
            for start, end, *_ in page.evaluate(SIZES, f"{APP} {part}"):
                assert left <= start <= end <= right + 1, part
        for stage, names in page.locator(f"{APP} .labkit-viewer-stage").evaluate_all(
            """(stages) => stages.map((s) => [s, ...s.querySelectorAll("span")]
                .map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.right]))
                .map(([stage, ...names]) => [stage, names])"""
        ):
            for name in names:
                assert stage[0] <= name[0] <= name[1] <= stage[1]


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until that element has the focus."""
    for _ in range(60):
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


def test_with_the_keyboard_alone(lab: Any, page: Any) -> None:
    page.locator(f"{APP} input[type=checkbox]").first.focus()
    tab_to(page, f"{APP} select")
    change(lab, page, lambda: page.keyboard.press("ArrowDown"))  # Shapes, crowded
    page.keyboard.press("d")
    page.keyboard.press("d")  # deletes a cell where JupyterLab gets the keys; here: "data set ..."
    assert page.locator(".jp-CodeCell").count() == len(CELLS)
    change(lab, page, lambda: page.keyboard.press("Home"))  # Shapes
    tab_to(page, f"{APP} input[type=number]")
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    change(lab, page, lambda: page.keyboard.press("Enter"))
    assert_as_the_twin(page, 7, None, False)
    tab_to(page, f"{APP} .noUi-handle")
    change(lab, page, lambda: page.keyboard.press("ArrowLeft"))
    assert score_of(page) == 0.45
    assert_as_the_twin(page, 7, 0.45, False)
    page.keyboard.press("Tab")
    tab_to(page, f"{APP} input[type=checkbox]")
    change(lab, page, lambda: page.keyboard.press("Space"))
    assert_as_the_twin(page, 7, 0.45, True)


def test_uploads(lab: Any, page: Any, tmp_path: Path) -> None:
    app = page.locator(APP)

    def send(path: Path) -> None:
        with page.expect_file_chooser() as chooser:
            app.get_by_role("button", name="choose a file").click()
        change(lab, page, lambda: chooser.value.set_files(path))

    change(lab, page, lambda: app.locator("select").select_option("upload an image"))
    bad = tmp_path / "notes.txt"
    bad.write_text("hello")
    send(bad)
    error = app.locator(".labkit-error")
    assert error.inner_text() == "notes.txt: not an image file that can be read"
    assert app.locator("figure").count() == len(MODELS) + 1  # what was there stays
    lab.screenshot(app, "compare_bad_upload")
    # Smooth, so that the file is small enough for a server with tornado's own limit of 10 MB.
    big = tmp_path / "big.jpg"
    Image.linear_gradient("L").convert("RGB").resize((8000, 6300)).save(big)
    send(big)
    assert error.is_hidden()
    assert "50.4 megapixels; it was scaled down" in app.locator(".labkit-status").inner_text()
    image = app.locator(".labkit-viewer-picture").first
    assert image.evaluate("(c) => c.width * c.height") <= 2048 * 1024


SLOW = """import time
import torch
from torch import nn
from labkit.datasets.shapes import Shapes
from labkit.structures import Prediction
from labkit.widgets import Compare

class Pause(nn.Module):
    def forward(self, x):
        time.sleep(0.2)
        return x

class Slow(nn.Module):
    categories = Shapes.categories
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 7, 1), *[Pause() for _ in range(600)])
    def forward(self, images):
        return [Prediction(semantic=self.layers(i.float()).argmax(0)) for i in images]

class Broken(Slow):
    def forward(self, images):
        raise RuntimeError("this model is broken")

Compare({"fpn": "panoptic_fpn_tiny", "broken": Broken(), "slow": Slow()}, ("shapes", 3))"""


def test_a_broken_model_and_a_long_one_that_is_cancelled(lab: Any) -> None:
    page = lab.open([SLOW], "slow")
    app = page.locator(APP)
    # Two minutes of pauses: the app answers meanwhile.
    app.get_by_text("slow (3 of 3): running").wait_for()
    app.locator("figure", has_text="this model is broken").wait_for()
    lab.screenshot(app, "compare_running")
    app.get_by_label("difference to the ground truth").click()
    app.get_by_text("FP: no match").wait_for()
    change(lab, page, app.get_by_role("button", name="cancel").click)
    assert "cancelled" in app.locator("figure").nth(3).inner_text()
    assert "TP" in app.locator("figure").nth(1).inner_text()
    assert app.locator(".labkit-progress").is_hidden()
    assert app.locator(".labkit-error").is_hidden()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of `labkit app compare`."""
    pytest.importorskip("voila", reason="Voilà is not installed; to enable: uv sync --extra apps")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "labkit", "app", "compare", "mask_rcnn_tiny", "--no-browser"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(600):
            address = re.search(r"http://localhost:\d+/\?token=\w+", log.read_text())
            if address or process.poll() is not None:
                break
            time.sleep(0.2)
        assert address, log.read_text()
        yield address[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def test_served_alone_with_an_upload_above_ten_megabytes(
    browser: Any, served: str, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    Image.fromarray(pixels).save(noise, compress_level=1)
    assert noise.stat().st_size > 11e6
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.goto(served)
    app = page.locator(APP)
    app.get_by_text("1 model on shapes, image 0").wait_for()
    app.locator("figure", has_text="mask_rcnn_tiny").wait_for()
    app.locator("select").select_option("upload an image")
    with page.expect_file_chooser() as chooser:
        app.get_by_role("button", name="choose a file").click()
    chooser.value.set_files(noise)
    app.get_by_text("noise.png: 2000 × 2000 pixels are 4.0 megapixels").first.wait_for()
    app.locator(".labkit-viewer-picture").first.wait_for()  # the model has answered
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "compare_alone.png")
    context.close()


def test_after_the_kernel_was_restarted(lab: Any, page: Any) -> None:
    page.evaluate(
        "async () => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    lab.wait_for_kernel(page, "compare.ipynb")
    page.locator(f"{APP} input[type=checkbox]").first.click()  # nobody answers, nothing breaks
    lab.run_all(page)
    lab.wait_for_change(page, "compare", 0)
    change(lab, page, page.locator(APP).get_by_label("difference to the ground truth").click)
    assert_as_the_twin(page, 3, None, True)
