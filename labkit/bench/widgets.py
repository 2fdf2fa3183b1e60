"""Response times of the widgets: pointing at segments, in Chromium, and moving a threshold.

The time of pointing starts with the browser's timestamp of the mouse event and ends when the frame
with the response has been painted. The page is the segment viewer's offline file: the same
script as in a notebook, and pointing needs no kernel there either.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from labkit.colors import distinct_colors
from labkit.doctor import BROWSERS
from labkit.errors import LabkitError
from labkit.widgets.compare.app import Compare
from labkit.widgets.compare.thresholds import LOWEST
from labkit.widgets.viewer.segment_layers import Layer, SegmentInfo
from labkit.widgets.viewer.viewer import SegmentViewer

SIZE = (768, 1024)
SEGMENTS = 40
MOVES = 300
TARGET_MS = 50.0

COMPARED = ["panoptic_fpn_tiny", "panoptic_fpn_tiny_c4", "panoptic_fpn_tiny_dc5", "upsnet_tiny"]
CHANGES = 100
THRESHOLD_TARGET_MS = 300.0

# The frame's own work, the viewer's drawing included, is done before a message that was posted in
# its animation callback arrives.
OBSERVE = """() => {
    window.times = [];
    addEventListener("pointermove", (event) => {
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => window.times.push(performance.now() - event.timeStamp);
            channel.port2.postMessage(0);
        });
    }, { capture: true });
}"""


@dataclass(frozen=True)
class Response:
    """Response times of one task.

    Attributes:
        task: what was asked.
        median_ms, p95_ms: over all answers.
        target_ms: what the 95th percentile has to stay below.
    """

    task: str
    median_ms: float
    p95_ms: float
    target_ms: float

    @property
    def met(self) -> bool:
        return self.p95_ms < self.target_ms

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def response(task: str, times_ms: Sequence[float], target_ms: float) -> Response:
    """Summarise response times."""
    p95 = float(np.percentile(times_ms, 95))
    return Response(task, statistics.median(times_ms), p95, target_ms)


def measure() -> list[Response]:
    """Measure all response times.

    Raises:
        LabkitError: Playwright or Chromium is missing.
    """
    return [hover(), threshold()]


def hover() -> Response:
    """Point at random places of two panels of 1024 × 768 pixels with 40 segments each."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (3, *SIZE), dtype=np.uint8)
    viewer = SegmentViewer(image, [_layer(title, random) for title in ("one", "two")])
    sync_playwright = _playwright()
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "viewer.html"
        viewer.to_html(path)
        # Root, as in a container, has no browser sandbox; the page is our own.
        arguments = ["--disable-gpu", *(["--no-sandbox"] if _is_root() else [])]
        chromium = driver.chromium.launch(executable_path=_chromium(), args=arguments)
        page = chromium.new_page(viewport={"width": 2200, "height": 1000})
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(".labkit-viewer[data-ready]")
        page.evaluate(OBSERVE)
        boxes = [c.bounding_box() for c in page.locator(".labkit-viewer-picture").all()]
        for k in range(MOVES):
            box = boxes[k % 2]
            x, y = random.random(2)
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            page.wait_for_function("(seen) => window.times.length > seen", arg=k)
        times = page.evaluate("() => window.times")
        chromium.close()
    return response(f"hover, two panels of {SIZE[1]} x {SIZE[0]}", times, TARGET_MS)


def threshold() -> Response:
    """Move the score threshold of the comparison, four models on an image of Shapes.

    From the change to the new panels and table on their way to the browser, all in this process.
    """
    app = Compare(COMPARED, ("shapes", 3))
    app.wait()
    times = []
    for k in range(CHANGES):
        start = time.perf_counter()
        app.score.value = LOWEST + 0.05 * (7 * k % 17)  # each differs from the one before
        times.append(1000 * (time.perf_counter() - start))
    return response("threshold, four models on Shapes", times, THRESHOLD_TARGET_MS)


def _layer(title: str, random: np.random.Generator) -> Layer:
    """A map of cells around random centres, with wavy borders."""
    small = np.zeros((SEGMENTS, SIZE[0] // 8, SIZE[1] // 8), np.float32)
    rows, columns = np.mgrid[: SIZE[0] // 8, : SIZE[1] // 8]
    for distance, (y, x) in zip(small, random.random((SEGMENTS, 2)), strict=True):
        distance[:] = np.hypot(rows - y * SIZE[0] / 8, columns - x * SIZE[1] / 8)
    waves = random.normal(0, 12, small.shape).astype(np.float32)
    small += np.stack([cv2.GaussianBlur(wave, (0, 0), 3) for wave in waves]) * 8
    large = np.stack([cv2.resize(distance, SIZE[::-1]) for distance in small])
    ids = (large.argmin(axis=0) + 1).astype(np.int32)
    colors = distinct_colors(SEGMENTS)
    info = {
        i + 1: SegmentInfo(f"segment {i + 1}", color, i % 2 == 0) for i, color in enumerate(colors)
    }
    return Layer(title, ids, info)


def _playwright() -> Any:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise LabkitError("Playwright drives the browser and is not installed: uv sync") from error
    return sync_playwright


def _chromium() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise LabkitError("no Chromium here: see `labkit doctor` for how to install it")
    return path


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
