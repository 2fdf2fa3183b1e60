"""The RoIAlign and the NMS explorer in JupyterLab, by mouse and by keyboard alone."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import load_model
from labkit.widgets.anchors_nms import explorer as anchors_nms
from labkit.widgets.anchors_nms.pyramid_levels import rpn_levels
from labkit.widgets.anchors_nms.scene import scene
from labkit.widgets.app import png
from labkit.widgets.interactive_figure import pixels
from labkit.widgets.roi_align import explorer as roi_align

SPAN = re.compile(r"Box x ([\d.]+) to ([\d.]+), y ([\d.]+) to ([\d.]+)\.")
BOX = (2.25, 6.75, 9.25, 13.5)
SETUP = """
import torch
from labkit.datasets.shapes import Shapes
image, target = Shapes("val", num=4)[{index}]
"""
ROI_ALIGN = f"""
from labkit.widgets import RoIAlignExplorer
features = torch.nn.functional.avg_pool2d(image.float().mean(dim=0)[None] / 255, 8)[0]
RoIAlignExplorer(features, {BOX}, image=image)
"""
NMS = """
from labkit.engine.predictor import load_model
from labkit.widgets import AnchorsNMS
AnchorsNMS(load_model("mask_rcnn_tiny"), image, level="p4")
"""


class Page:
    """An app in its page, with its picture and the figure of which it is the picture."""

    def __init__(self, lab, page, name):
        self.lab, self.page, self.name = lab, page, name
        page.set_viewport_size({"width": 1300, "height": 1200})  # all of the app in a screenshot
        self.app = page.locator(f".labkit-{name}")
        self.canvas = self.app.get_by_role("application")
        self.image = self.canvas.locator("img")
        lab.changes(page, name)
        page.wait_for_function(
            "name => document.querySelector(`.labkit-${name} img`)?.naturalWidth > 0", arg=name
        )

    def at(self, figure, axes, x, y):
        """The place on the screen of a point in the axes of a figure."""
        found = next(one for one in figure.axes if one.get_label() == axes)
        self.image.scroll_into_view_if_needed()
        rect = self.image.bounding_box()
        scale = rect["width"] / self.image.evaluate("image => image.naturalWidth")
        x, y = pixels(found, x, y)
        return rect["x"] + x * scale, rect["y"] + y * scale

    def shows(self, figure):
        """Wait until the picture is that of a figure, to the last bit."""
        expected = png(figure)
        for _ in range(300):
            if self.lab.picture(self.image) == expected:
                break
            self.page.wait_for_timeout(200)
        assert self.lab.picture(self.image) == expected
        assert not self.app.locator(".labkit-error").is_visible()
        return figure

    def tab_to(self, locator, limit=12):
        """Press Tab until it has the focus."""
        for _ in range(limit):
            if locator.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {locator}")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture(scope="module")
def roi(lab):
    return Page(lab, lab.open([SETUP.format(index=1), ROI_ALIGN], "roi"), "roi-align")


def draw_roi(box, **options):
    image, _ = Shapes("val", num=4)[1]
    features = torch.nn.functional.avg_pool2d(image.float().mean(dim=0)[None] / 255, 8)[0]
    return roi_align.draw_roi_align(features, box, image=image, **options)


def restart(app):
    """The app as it was in the beginning, in the same page."""
    app.lab.run_all(app.page)
    return Page(app.lab, app.page, app.name)


def test_roi_align_by_mouse(roi):
    app = restart(roi)
    figure = app.shows(draw_roi(BOX))
    mouse = app.page.mouse

    mouse.click(*app.at(figure, "RoIAlign output", 2, 1))
    figure = app.shows(draw_roi(BOX, selected=(1, 2)))
    app.lab.screenshot(app.app, "roi_align")

    def drag(start, end, name="RoIWarp map"):
        """Drag, and return the box that the app then says it has."""
        seen = app.lab.changes(app.page, app.name)
        frame = app.canvas.locator(".labkit-canvas-frame")
        mouse.move(*app.at(figure, name, *start))
        mouse.down()
        mouse.move(*app.at(figure, name, *end), steps=4)
        assert frame.is_visible()
        mouse.up()
        assert not frame.is_visible()
        app.lab.wait_for_change(app.page, app.name, seen)
        said = app.app.get_by_role("status").inner_text()
        x1, x2, y1, y2 = map(float, SPAN.match(said).groups())
        return x1, y1, x2, y2

    box = drag((4, 8), (8, 5))  # moved: it begins inside the box
    assert box == pytest.approx((6.25, 3.75, 13.25, 10.5), abs=0.1)
    figure = app.shows(draw_roi(box, selected=(1, 2)))
    box = drag(box[2:], (11, 8))  # resized: at its corner
    assert box == pytest.approx((6.25, 3.75, 11, 8), abs=0.1)
    figure = app.shows(draw_roi(box, selected=(1, 2)))
    box = drag((1, 10), (4, 15), "image")  # drawn, on the picture
    assert box == pytest.approx((1, 10, 4, 15), abs=0.1)
    figure = app.shows(draw_roi(box, selected=(1, 2)))
    mouse.click(*app.at(figure, "RoIPool map", 1.2, 14.8))  # the lower left bin
    app.shows(draw_roi(box, selected=(3, 0)))


def test_roi_align_by_keyboard_alone(roi):
    app = restart(roi)
    bins, samples, shown = (app.app.get_by_label(name) for name in ("Bins", "Samples", "Shown bin"))
    bins.focus()
    app.press("ArrowUp")
    app.shows(draw_roi(BOX, bins=3))
    app.tab_to(samples)
    app.press("ArrowDown")
    app.shows(draw_roi(BOX, bins=3, samples=3))
    app.tab_to(shown)
    app.press("End")
    app.shows(draw_roi(BOX, bins=3, samples=3, selected=(2, 2)))
    app.tab_to(app.canvas)
    ring = app.canvas.evaluate("element => getComputedStyle(element).outline")
    assert "solid" in ring
    name = "Feature map with a movable box"
    assert app.app.get_by_role("application", name=name).count() == 1
    app.press(*["ArrowRight"] * 6, "ArrowUp", "Shift+ArrowLeft", "Shift+ArrowDown", "d", "d")
    options = {"bins": 3, "samples": 3, "selected": (2, 2)}
    app.shows(draw_roi((3.75, 6.5, 10.5, 13.5), **options))
    assert app.page.locator(".jp-CodeCell").count() == 2  # d d has deleted nothing
    assert "Bin in row 3, column 3" in app.image.get_attribute("alt")
    app.lab.screenshot(app.app, "roi_align_keyboard")


@pytest.fixture(scope="module")
def nms(lab):
    return Page(lab, lab.open([SETUP.format(index=3), NMS], "nms"), "anchors-nms")


@functools.cache
def seen_by_model():
    image, _ = Shapes("val", num=4)[3]
    return image, rpn_levels(load_model("mask_rcnn_tiny"), image)


def draw_nms(**options):
    return anchors_nms.draw_anchors_nms(*seen_by_model(), **{"level": "p4", **options})


def cell_of(**options):
    return scene(seen_by_model()[1], **options).cell


def test_nms_by_mouse(nms):
    app = restart(nms)
    figure = app.shows(draw_nms())
    mouse = app.page.mouse
    app.app.get_by_role("button", name="Next step").click()
    figure = app.shows(draw_nms(done=2))
    mouse.click(*app.at(figure, "table", 0.5, 3.5))
    figure = app.shows(draw_nms(done=2, box=3))
    app.lab.screenshot(app.app, "anchors_nms")
    app.app.get_by_role("button", name="Step back").click()
    figure = app.shows(draw_nms(done=1, box=3))
    mouse.click(*app.at(figure, "anchors", 60, 33))
    app.shows(draw_nms(done=1, box=3, cell=(2, 4)))


def test_nms_by_keyboard_alone(nms):
    app = restart(nms)
    level, ratio, box = (
        app.app.get_by_label(name, exact=True) for name in ("Level", "Anchors", "Box")
    )
    level.focus()
    app.press("ArrowUp")
    app.shows(draw_nms(level="p3"))
    app.tab_to(ratio)
    app.press("ArrowDown")
    app.shows(draw_nms(level="p3", ratio=0.7))
    app.tab_to(box)
    app.press("ArrowDown", "ArrowDown")
    app.shows(draw_nms(level="p3", ratio=0.7, box=2))
    count, threshold, step = (
        app.app.get_by_role("slider", name=name) for name in ("Boxes", "NMS above", "Step")
    )
    app.tab_to(count)
    app.press("ArrowLeft")
    app.shows(draw_nms(level="p3", ratio=0.7, box=2, count=11))
    app.tab_to(threshold)
    app.press("ArrowLeft", "ArrowLeft")
    options = {"level": "p3", "ratio": 0.7, "box": 2, "count": 11, "threshold": 0.6}
    app.shows(draw_nms(**options))
    app.tab_to(step)
    app.press("ArrowRight")
    app.shows(draw_nms(**options, done=2))
    app.tab_to(app.canvas)
    app.press("Shift+ArrowRight")
    app.shows(draw_nms(**options, done=3))
    row, column = cell_of(**options)
    app.press("ArrowRight" if column < 8 else "ArrowLeft", "ArrowDown" if row < 8 else "ArrowUp")
    cell = (row + (1 if row < 8 else -1), column + (1 if column < 8 else -1))
    app.shows(draw_nms(**options, done=3, cell=cell))
    app.lab.screenshot(app.app, "anchors_nms_keyboard")
