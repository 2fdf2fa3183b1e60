"""Widgets in a page without a kernel: they answer, and show what Python shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seen import canvas_pixels

from labkit.checkpoints.shipped import shipped
from labkit.datasets.shapes import Shapes
from labkit.structures import Panoptic, Segment
from labkit.widgets import AnchorsNMS, Compare, PQMatching, RoIAlignExplorer
from labkit.widgets.anchors_nms.pyramid_levels import rpn_levels
from labkit.widgets.anchors_nms.scene import fate_text, scene, sentences
from labkit.widgets.compare.app import OFFLINE_SCORES
from labkit.widgets.compare.compare import run_models
from labkit.widgets.offline_page import offline_page
from labkit.widgets.pq_matching.matching import layers, matching, move, table
from labkit.widgets.roi_align.explorer import headline
from labkit.widgets.roi_align.figure import format_cell
from labkit.widgets.roi_align.operator_samples import sample_operators
from labkit.widgets.viewer.segment_layers import draw_layer, enlargement

SECONDS = 60


@pytest.fixture
def open_piece(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens widgets as files, without a network; any error in the page fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
    context.set_default_timeout(SECONDS * 1000)
    errors: list[str] = []

    def show(widget: Any) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        path = tmp_path / "widget.html"
        path.write_text(offline_page("a widget", widget.offline()), encoding="utf-8")
        page.goto(path.as_uri())
        return page

    yield show
    context.close()
    assert errors == []


def table_cells(page: Any) -> list[list[str]]:
    rows = page.locator(".labkit-offline tbody tr")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def ready(page: Any, seen: int) -> None:
    """Wait for a change after ``seen`` ones."""
    page.wait_for_function(
        "(seen) => document.querySelector('.labkit-offline').dataset.ready > seen", arg=seen
    )


def changed_map(panoptic: Panoptic) -> Panoptic:
    """A prediction: two thirds of a segment, void, and one of another class."""
    ids = panoptic.ids.clone()
    ids[:9] = 0
    rows = (ids == 1).nonzero()[:, 0]
    ids[int(rows.float().quantile(0.66)) :][ids[int(rows.float().quantile(0.66)) :] == 1] = 2
    segments = [
        Segment(s.id, 1 if s.id == 3 else s.label, score=0.9 if s.label < 3 else None)
        for s in panoptic.segments
        if (ids == s.id).any()
    ]
    return Panoptic(ids, segments)


def test_pq_matching_moves_segments_and_scores_them(open_piece: Any) -> None:
    data = Shapes("val", num=22)
    image, target = data[21]
    truth = target["panoptic"]
    ids = truth.ids.clone()
    ids[100:, :20] = 0  # void
    crowd = [Segment(s.id, s.label, iscrowd=s.id == 4) for s in truth.segments]
    truth = Panoptic(ids, [s for s in crowd if (ids == s.id).any()])
    prediction = changed_map(target["panoptic"])
    page = open_piece(PQMatching(image, truth, prediction, data.categories))
    ready(page, 0)
    start = matching(prediction, truth, data.categories)
    assert [tuple(row) for row in table_cells(page)] == table(start.quality, start.quality)

    # Choose the segment at the cross by keyboard, and move it.
    canvas = page.locator(".labkit-viewer-picture").nth(1)
    rows, columns = (prediction.ids == 2).nonzero().float().mean(dim=0).round().int().tolist()
    box = canvas.bounding_box()
    canvas.click(
        position={
            "x": (columns + 0.5) * box["width"] / 128,
            "y": (rows + 0.5) * box["height"] / 128,
        }
    )
    number = int(prediction.ids[rows, columns])
    offsets = {number: (11, -9)}
    canvas.press("Shift+ArrowRight")
    canvas.press("ArrowRight")
    for _ in range(9):
        canvas.press("ArrowUp")
    page.wait_for_function(
        "() => document.querySelector('.labkit-offline [role=status]')"
        ".textContent.includes('11 pixels right and 9 up')"
    )
    found = matching(move(prediction, offsets), truth, data.categories)
    assert [tuple(row) for row in table_cells(page)] == table(found.quality, start.quality)
    for panel, layer in enumerate(layers(found, data.categories)):
        shown = canvas_pixels(page.locator(".labkit-viewer-picture").nth(panel))[..., :3]
        scale = enlargement(128, 128)
        np.testing.assert_array_equal(shown, draw_layer(image, layer, 0.6, scale=scale))
    described = page.evaluate(
        "() => Array.from(document.querySelectorAll('.labkit-viewer-readout'), e => e.innerText)"
    )
    at = (columns + 11, rows - 9)
    assert described == [layer.describe(*at) for layer in layers(found, data.categories)]

    page.get_by_role("button", name="put all back").click()
    page.wait_for_function("() => document.querySelector('.labkit-offline button').disabled")
    assert [tuple(row) for row in table_cells(page)] == table(start.quality, start.quality)


def test_compare_shows_every_threshold_and_the_differences(open_piece: Any) -> None:
    models, source = ["panoptic_fpn_tiny", "mask_rcnn_tiny"], ("crowded", 9)
    page = open_piece(Compare(models, source))
    comparison = run_models(models, source)
    page.wait_for_selector(".labkit-viewer[data-ready]")
    seen = 0
    for score, outcomes in ((None, True), (OFFLINE_SCORES[0], True), (OFFLINE_SCORES[-1], False)):
        name = "each method's own" if score is None else f"{score:.2f} for all"
        painted = int(page.locator(".labkit-viewer").get_attribute("data-ready"))
        page.get_by_label("difference to the ground truth").set_checked(outcomes)
        page.get_by_label("score", exact=False).first.select_option(label=name)
        ready(page, seen)
        seen = int(page.locator(".labkit-offline").get_attribute("data-ready"))
        page.wait_for_function(
            "(seen) => document.querySelector('.labkit-viewer').dataset.ready > seen", arg=painted
        )
        page.wait_for_timeout(300)  # of two changes the second is painted last
        views = comparison.views(score)
        image = comparison.picture.image
        for panel, layer in enumerate(comparison.layers(views, outcomes)):
            shown = canvas_pixels(page.locator(".labkit-viewer-picture").nth(panel))[..., :3]
            scale = enlargement(*image.shape[1:])
            np.testing.assert_array_equal(shown, draw_layer(image, layer, 0.6, scale=scale))
        assert [row[0] for row in table_cells(page)] == models


def same_scene(page: Any, levels: Any, **state: Any) -> None:
    """The page says and lists what Python does."""
    shown = scene(levels, **state)
    assert page.locator("[role=status]").inner_text() == " ".join(sentences(shown))
    expected = [
        [str(i + 1), f"{score:.2f}", fate_text(shown, i)]
        for i, score in enumerate(shown.scores.tolist())
    ]
    assert table_cells(page) == expected
    row, column = shown.cell
    assert f"row {row + 1}, column {column + 1}." in page.locator("figcaption").nth(1).inner_text()


def test_anchors_nms_takes_the_steps_of_python(open_piece: Any) -> None:
    image, _ = Shapes("val", num=5)[4]
    model = shipped()["mask_rcnn_tiny"].load()
    levels = rpn_levels(model, image)
    page = open_piece(AnchorsNMS(model, image, level="p4"))
    same_scene(page, levels, level="p4")
    first = scene(levels, level="p4")
    for done in range(2, len(first.steps) + 1):
        page.get_by_role("button", name="Next step").click()
        same_scene(page, levels, level="p4", done=done)
    assert page.get_by_role("button", name="Next step").is_disabled()

    page.get_by_label("Level").select_option("p2")
    same_scene(page, levels, level="p2")
    page.get_by_label("NMS above").fill("0.3")
    page.get_by_label("Boxes").fill("20")
    steps = len(scene(levels, level="p2", count=20, threshold=0.3).steps)
    state = {"level": "p2", "count": 20, "threshold": 0.3, "done": min(2, steps)}
    page.get_by_role("button", name="Next step").click()
    same_scene(page, levels, **state)
    for box in (1, 2, 7):
        label = page.locator("label", has_text=re.compile("^Box "))
        label.locator("select").select_option(str(box))
        same_scene(page, levels, **state, box=box)

    row, column = scene(levels, **state, box=7).cell
    picture = page.locator("svg[role=application]")
    away = -1 if column else 1
    picture.press("ArrowLeft" if column else "ArrowRight")
    same_scene(page, levels, **state, box=7, cell=(row, column + away))
    picture.press("Shift+ArrowLeft")
    same_scene(
        page, levels, **{**state, "done": state["done"] - 1}, box=7, cell=(row, column + away)
    )
    box = picture.bounding_box()  # a click near the centre of a cell
    picture.click(position={"x": 42 / 128 * box["width"], "y": 18 / 128 * box["height"]})
    cell = next(one for one in levels if one.name == "p2").nearest_cell(42.0, 18.0)
    same_scene(page, levels, **{**state, "done": state["done"] - 1}, box=7, cell=cell)


def same_samples(page: Any, features: torch.Tensor, box: Any, **state: Any) -> None:
    """The page's values, to two digits, are Python's."""
    readings = sample_operators(features, box, **state)
    assert page.locator("[role=status]").inner_text() == headline(box, readings)
    for name, reading in readings.items():
        grid = page.get_by_label(f"What {name} returns")
        values = [format_cell(value) for value in reading.output.ravel()]
        assert grid.get_attribute("aria-label").split(": ")[1].split() == values
    # Numbers half-way between two of two digits are rounded up in the page, to even in Python.
    number = r"(-?[\d.]+)"
    sums = page.locator("pre").inner_text()
    points = re.findall(rf"at \({number}, {number}\): .* = {number}$", sums, re.MULTILINE)
    samples = [(s.x, s.y, s.value) for r in readings.values() for s in r.samples[:4]]
    found = np.array(points, float)
    np.testing.assert_allclose(found, np.array(samples), atol=0.0051)


def test_roi_align_samples_as_python_does(open_piece: Any) -> None:
    features = torch.arange(32 * 24).reshape(24, 32).mul(37).remainder(101).double() / 10.3
    box = (6.3, 4.2, 19.1, 22.7)
    page = open_piece(RoIAlignExplorer(features, box, selected=(1, 2)))
    same_samples(page, features, box, selected=(1, 2))
    page.get_by_label("Bins").select_option("7 × 7")
    page.get_by_label("Samples").select_option("3 × 3")
    page.get_by_label("Shown bin").select_option("row 7, column 1")
    state = {"bins": 7, "samples": 3, "selected": (6, 0)}
    same_samples(page, features, box, **state)
    picture = page.get_by_label("Feature map with the region of RoIAlign")
    for _ in range(30):  # against the right border of the map
        picture.press("Shift+ArrowRight")
        picture.press("ArrowRight")
    picture.press("ArrowUp")
    moved = page.locator("[role=status]").inner_text()
    assert " to 32.00, y 3.95 to 22.45. " in moved
    left = float(moved.split()[2])
    same_samples(page, features, (left, 3.95, 32.0, 22.45), **state)
    page.get_by_label("Bins").select_option("2 × 2")
    same_samples(page, features, (left, 3.95, 32.0, 22.45), bins=2, samples=3, selected=(1, 0))
