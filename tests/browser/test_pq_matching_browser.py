"""The app about panoptic quality in JupyterLab, by mouse and by keyboard alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.seen import canvas_pixels

from labkit.datasets.shapes import Shapes
from labkit.widgets.pq_matching.matching import Offsets, layers, matching, move
from labkit.widgets.viewer.segment_layers import draw_layer, enlargement

CELL = """from labkit.datasets.shapes import Shapes
from labkit.widgets import PQMatching
from labkit.widgets.pq_matching.matching import move
data = Shapes("val", num=3)
image, target = data[2]
truth = target["panoptic"]
things = [s.id for s in truth.segments if s.label in data.categories.things]
PQMatching(image, truth, move(truth, dict.fromkeys(things, (5, -4))), data.categories)"""

APP = ".labkit-pq-matching"
SQUARE = 6  # the large square of this scene, and a pixel inside it
INSIDE = (30, 60)


class Expected:
    """What the twin says after some moves."""

    def __init__(self, offsets: Offsets) -> None:
        data = Shapes("val", num=3)
        image, target = data[2]
        truth = target["panoptic"]
        things = [s.id for s in truth.segments if s.label in data.categories.things]
        guess = move(truth, dict.fromkeys(things, (5, -4)))
        found = matching(move(guess, offsets), truth, data.categories)
        self.layers = layers(found, data.categories)
        scale = enlargement(*image.shape[1:])
        self.pixels = [draw_layer(image, layer, 0.6, scale=scale) for layer in self.layers]
        self.score = f"PQ {100 * found.quality.all.pq:.1f}, SQ {100 * found.quality.all.sq:.1f}"


def shown(page: Any, number: int) -> np.ndarray:
    return canvas_pixels(page.locator(f"{APP} .labkit-viewer-picture").nth(number))[..., :3]


def wait_for_status(page: Any, text: str) -> None:
    page.wait_for_function(
        "([app, text]) =>"
        " document.querySelector(`${app} .labkit-status`)?.innerText.includes(text)",
        arg=[APP, text],
    )


def wait_for_pixels(page: Any, expected: Expected) -> None:
    """The status comes with the score, the pictures once the browser has unpacked them."""
    for number in (0, 1):
        for _ in range(100):
            if np.array_equal(shown(page, number), expected.pixels[number]):
                break
            page.wait_for_timeout(50)
        np.testing.assert_array_equal(shown(page, number), expected.pixels[number])


def place(page: Any, number: int, pixel: tuple[int, int]) -> tuple[float, float]:
    box = page.locator(f"{APP} .labkit-viewer-picture").nth(number).bounding_box()
    x, y = pixel
    return box["x"] + (x + 0.5) * box["width"] / 128, box["y"] + (y + 0.5) * box["height"] / 128


def wait_for_readout(page: Any, number: int, text: str) -> None:
    page.wait_for_function(
        "([app, k, text]) => document.querySelectorAll(`${app} .labkit-viewer-readout`)[k]"
        ".innerText === text",
        arg=[APP, number, text],
    )


def test_by_mouse(lab: Any) -> None:
    start = Expected({})
    page = lab.open([CELL], "pq_mouse")
    page.wait_for_selector(f"{APP} .labkit-viewer[data-ready]")
    wait_for_pixels(page, start)
    wait_for_status(page, start.score)

    page.mouse.move(*place(page, 0, INSIDE))
    for number, layer in enumerate(start.layers):
        wait_for_readout(page, number, layer.describe(*INSIDE))
    lab.screenshot(page.locator(APP), "pq_matching")

    page.mouse.move(*place(page, 1, INSIDE))
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(*place(page, 1, (INSIDE[0] - step, INSIDE[1] + step - 1)))
    page.mouse.up()
    moved = Expected({SQUARE: (-5, 4)})
    wait_for_status(page, moved.score)
    wait_for_status(page, f"square {SQUARE} is 5 pixels left and 4 down")
    wait_for_pixels(page, moved)
    assert moved.score != start.score
    lab.screenshot(page.locator(APP), "pq_matching_moved")

    page.get_by_role("button", name="put all back").click()
    wait_for_status(page, "Everything is where it was")
    wait_for_pixels(page, start)


def test_by_keyboard_alone(lab: Any) -> None:
    page = lab.open([CELL], "pq_keyboard")
    page.wait_for_selector(f"{APP} .labkit-viewer[data-ready]")
    page.locator(f"{APP} input").first.focus()
    for _ in range(5):  # three boxes, the truth, the prediction
        page.keyboard.press("Tab")
    # The cursor begins in the middle, at (64, 64).
    for key in ["Shift+ArrowLeft"] * 3 + ["ArrowLeft"] * 4 + ["ArrowUp"] * 4:
        page.keyboard.press(key)
    start = Expected({})
    wait_for_readout(page, 1, start.layers[1].describe(30, 60))
    page.keyboard.press("Enter")
    for key in ["ArrowLeft"] * 5 + ["ArrowDown"] * 4:
        page.keyboard.press(key)
    moved = Expected({SQUARE: (-5, 4)})
    wait_for_status(page, f"square {SQUARE} is 5 pixels left and 4 down")
    wait_for_status(page, moved.score)
    wait_for_pixels(page, moved)
    page.keyboard.press("Escape")  # lets go: from here on the arrows point
    page.keyboard.press("ArrowRight")
    wait_for_readout(page, 1, moved.layers[1].describe(26, 64))
    for key in "dd":  # would delete the cell
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText").strip() == "put all back"
    for key in "dd":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait_for_status(page, "Everything is where it was")
    wait_for_pixels(page, start)
    assert page.locator(".jp-CodeCell").count() == 1
