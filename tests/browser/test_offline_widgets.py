"""Widgets in a page without a kernel: they answer, and show what Python shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seen import canvas_pixels

from labkit.datasets.shapes import Shapes
from labkit.structures import Panoptic, Segment
from labkit.widgets import Compare, PQMatching
from labkit.widgets.compare.app import OFFLINE_SCORES
from labkit.widgets.compare.compare import run_models
from labkit.widgets.offline_page import offline_page
from labkit.widgets.pq_matching.matching import layers, matching, move, table
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
        background = torch.as_tensor(comparison.background(outcomes))
        for panel, layer in enumerate(comparison.layers(views, outcomes)):
            shown = canvas_pixels(page.locator(".labkit-viewer-picture").nth(panel))[..., :3]
            scale = enlargement(*background.shape[1:])
            np.testing.assert_array_equal(shown, draw_layer(background, layer, 0.6, scale=scale))
        assert [row[0] for row in table_cells(page)] == models
