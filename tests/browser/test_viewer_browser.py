"""The segment viewer: one offline file in Chromium, and the widget in JupyterLab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from helpers.seen import canvas_pixels

from labkit.datasets.shapes import Shapes
from labkit.widgets.viewer.segment_layers import layer_of
from labkit.widgets.viewer.viewer import SegmentViewer

READY = ".labkit-viewer[data-ready]"
CELLS = [
    """from labkit.datasets.shapes import Shapes
from labkit.widgets.viewer.segment_layers import layer_of
from labkit.widgets.viewer.viewer import SegmentViewer
data = Shapes("val", num=3)
image, target = data[2]
other = data[1][1]
viewer = SegmentViewer(image, [layer_of(target["panoptic"], data.categories, "one"),
                               layer_of(other["panoptic"], data.categories, "two")])
viewer""",
    """import ipywidgets
report = ipywidgets.Label()
report.add_class("report")
def say(change=None):
    report.value = f"{viewer.hovered} {viewer.selected} {viewer.opacity}"
viewer.observe(say, ["hovered", "selected", "opacity"])
report""",
]


def make_viewer() -> SegmentViewer:
    """What the notebook's cell makes."""
    data = Shapes("val", num=3)
    image, target = data[2]
    maps = {"one": target["panoptic"], "two": data[1][1]["panoptic"]}
    return SegmentViewer(image, [layer_of(m, data.categories, t) for t, m in maps.items()])


def pixels(page: Any, number: int) -> np.ndarray:
    found = canvas_pixels(page.locator(".labkit-viewer-picture").nth(number))
    assert (found[..., 3] == 255).all()
    return found[..., :3]


def readouts(page: Any) -> list[str]:
    return page.locator(".labkit-viewer-readout").all_inner_texts()


def wait_for_readouts(page: Any, texts: list[str]) -> None:
    page.wait_for_function(
        "(texts) => JSON.stringify(texts) === JSON.stringify("
        "Array.from(document.querySelectorAll('.labkit-viewer-readout'), (e) => e.innerText))",
        arg=texts,
    )


def point_at(page: Any, number: int, x: int, y: int, size: tuple[int, int]) -> None:
    """Put the mouse on the middle of an image pixel of a panel."""
    box = page.locator(".labkit-viewer-picture").nth(number).bounding_box()
    page.mouse.move(
        box["x"] + (x + 0.5) * box["width"] / size[1],
        box["y"] + (y + 0.5) * box["height"] / size[0],
    )


def repainted(page: Any) -> int:
    return int(page.locator(READY).get_attribute("data-ready"))


def wait_for_repaint(page: Any, seen: int) -> None:
    page.wait_for_function(
        "([query, seen]) => Number(document.querySelector(query).dataset.ready) > seen",
        arg=[READY, seen],
    )


def wait_for_report(page: Any, text: str) -> None:
    page.wait_for_function(
        "(text) => document.querySelector('.report').innerText.trim() === text", arg=text
    )


@pytest.fixture
def offline(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens viewers as files, without a network; any error in the page fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 800})
    errors: list[str] = []

    def show(viewer: SegmentViewer) -> Any:
        viewer.to_html(tmp_path / "viewer.html")
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.append(request.url))
        page.goto((tmp_path / "viewer.html").as_uri())
        page.wait_for_selector(READY)
        return page

    yield show
    context.close()
    assert errors == []


@pytest.mark.parametrize("size", [(3, 5), (37, 50), (90, 400)])
def test_canvas_equals_draw_layer(offline: Any, size: tuple[int, int]) -> None:
    """Random pictures and maps, enlarged and not, with segments that are hidden."""
    random = np.random.default_rng(size[0])
    image = random.integers(0, 256, (3, *size), dtype=np.uint8)
    viewer = make_viewer()
    layer = viewer.layers[0]
    ids = random.choice([0, *layer.info], (size[0], -(-size[1] // 5))).repeat(5, axis=1)
    noisy = type(layer)("noise", ids[:, : size[1]].astype(np.int32), layer.info)
    viewer.show(image, [noisy, noisy])
    viewer.opacity = 0.37
    viewer.show_stuff = False
    viewer.hidden = [[1, next(iter(layer.info))]]
    page = offline(viewer)
    for number in (0, 1):
        np.testing.assert_array_equal(pixels(page, number), viewer.pixels(number))


def test_the_offline_file_answers_controls_as_the_twin_does(offline: Any) -> None:
    viewer = make_viewer()
    page = offline(viewer)
    for number in (0, 1):
        np.testing.assert_array_equal(pixels(page, number), viewer.pixels(number))
    page.get_by_label("stuff").uncheck()
    viewer.show_stuff = False
    slider = page.get_by_label("opacity")
    slider.focus()
    slider.press("ArrowRight")
    viewer.opacity = 0.65
    for number in (0, 1):
        np.testing.assert_array_equal(pixels(page, number), viewer.pixels(number))


def test_hover_says_what_numpy_says(offline: Any) -> None:
    viewer = make_viewer()
    page = offline(viewer)
    random = np.random.default_rng(1)
    for k in range(60):
        x, y = random.integers(0, 128, 2).tolist()
        point_at(page, k % 2, x, y, (128, 128))
        wait_for_readouts(page, viewer.describe(x, y))


def test_keyboard_alone(offline: Any) -> None:
    viewer = make_viewer()
    page = offline(viewer)
    for _ in range(5):  # opacity, three boxes, the first picture
        page.keyboard.press("Tab")
    wait_for_readouts(page, viewer.describe(64, 64))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    wait_for_readouts(page, viewer.describe(63, 54))
    seen = repainted(page)
    page.keyboard.press("-")
    wait_for_repaint(page, seen)
    viewer.opacity = 0.5
    np.testing.assert_array_equal(pixels(page, 1), viewer.pixels(1))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("two: ")


def test_a_layer_without_a_picture_shows_its_message(offline: Any) -> None:
    viewer = make_viewer()
    one, two = viewer.layers
    failed = type(two)("two", np.zeros((1, 1), np.int32), {}, "the model <failed>")
    viewer.layers = [one, failed]
    page = offline(viewer)
    assert page.locator(".labkit-viewer-message").inner_text() == "the model <failed>"
    assert page.locator(".labkit-viewer-picture").count() == 1


def test_in_jupyterlab(lab: Any) -> None:
    viewer = make_viewer()
    page = lab.open(CELLS, "segment_viewer")
    page.wait_for_selector(READY)
    for number in (0, 1):
        np.testing.assert_array_equal(pixels(page, number), viewer.pixels(number))
    point_at(page, 0, 40, 60, (128, 128))
    wait_for_readouts(page, viewer.describe(40, 60))
    lab.screenshot(page.locator(".labkit-viewer"), "segment_viewer")

    # What is chosen here is known to the kernel: the second cell's label follows it.
    wait_for_report(page, "[40, 60] None 0.6")
    page.mouse.down()
    page.mouse.up()
    wait_for_report(page, f"[40, 60] [0, {viewer.layers[0].ids[60, 40]}] 0.6")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    wait_for_report(page, "[41, 60] None 0.7")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_report(page, f"[41, 60] [1, {viewer.layers[1].ids[60, 41]}] 0.7")

    # The keys that delete a cell in JupyterLab do nothing while the picture has the focus.
    for key in "dd":
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == len(CELLS)

    # After a restart of the kernel the pictures still answer.
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    lab.wait_for_kernel(page, "segment_viewer.ipynb")
    point_at(page, 1, 20, 90, (128, 128))
    wait_for_readouts(page, viewer.describe(20, 90))


def test_a_notebook_that_is_not_trusted_shows_the_picture(lab: Any) -> None:
    viewer = make_viewer()
    data, _ = viewer._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell(
        "viewer", outputs=[nbformat.v4.new_output("display_data", data=data)]
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, lab.folder / "untrusted.ipynb")
    page = lab.visit("untrusted.ipynb")
    image = page.locator(".jp-OutputArea img")
    image.wait_for()
    assert lab.picture(image) == viewer.still()[0]
    assert "rror" not in page.locator(".jp-OutputArea").inner_text()
