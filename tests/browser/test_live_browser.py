"""The model in a page: Python's panoptic maps, by keyboard alone, without a network."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import re
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.paths import CHECKOUT
from PIL import Image

from labkit.datasets.shapes import Shapes
from labkit.deploy import load
from labkit.deploy.images import at_input_size, preprocess
from labkit.deploy.queries import sigmoid, softmax
from labkit.site.live.placement import BOTH, with_scripts
from labkit.site.live.write_live import MODELS, exported_model, write_live

ANSWERED = "labkit-live[data-answers]"
SECONDS = 120
MILLISECONDS = 120
NOISE = 1.5
"""How much longer an answer may take while other tests use the same caches."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>live</title><link rel="icon" href="data:,"></head>
<body>{body}</body></html>
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of two pages, with one model and with both."""
    folder = tmp_path_factory.mktemp("site")
    write_live(folder)
    (element,) = re.findall(
        "^<labkit-live.*$", (CHECKOUT / "docs/live.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    both = f'<labkit-live models="{BOTH}"></labkit-live>'
    for name, body in (("live", element), ("both", both)):
        page = PAGE.format(body=with_scripts(body, ""))
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[dict[str, str]]:
    """Of the site, from the disk and from a server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"disk": site.as_uri(), "server": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


class Live:
    """A page of the site with an answer; what it requests and complains about is collected."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int] = (1200, 900)) -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.wait_for_answer(1)

    @property
    def answers(self) -> int:
        return int(self.page.locator(ANSWERED).get_attribute("data-answers"))

    def wait_for_answer(self, seen: int) -> None:
        self.page.wait_for_function(
            "(seen) => document.querySelector('labkit-live')?.dataset.answers > seen", arg=seen
        )

    def shown(self) -> np.ndarray:
        """The reader's image, ``(H, W, 3)``."""
        height, width, rgb = self.page.evaluate(
            """() => {
                const { height, width, rgb } = document.querySelector("labkit-live").board.image;
                return [height, width, Array.from(rgb)];
            }"""
        )
        return np.array(rgb, np.uint8).reshape(height, width, 3)

    def result(self, panel: int = 0) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Panoptic map and segments of a model."""
        height, width, ids, segments = self.page.evaluate(
            """(panel) => {
                const { panels, image } = document.querySelector("labkit-live");
                const { panoptic, segments } = panels[panel].result;
                return [image.height, image.width, Array.from(panoptic), segments];
            }""",
            panel,
        )
        return np.array(ids).reshape(height, width), segments

    def answer(self, image: np.ndarray) -> None:
        """Let all models answer to an image."""
        content = base64.b64encode(image.tobytes()).decode()
        self.page.evaluate(
            """async ([height, width, content]) => {
                const live = document.querySelector("labkit-live");
                const rgb = Uint8ClampedArray.from(atob(content), (c) => c.charCodeAt(0));
                live.board.show({ height, width, rgb });
                await live.answered;
            }""",
            [*image.shape[:2], content],
        )


@pytest.fixture(scope="module")
def open_live(browser: Any, address: dict[str, str]) -> Iterator[Any]:
    """Opens a page, ``open_live("live", "disk")``; loading takes seconds, so that it stays open."""
    opened: dict[Any, Live] = {}

    def open_page(name: str, where: str = "disk", **options: Any) -> Live:
        key = (name, where, *options.items())
        if key not in opened:
            opened[key] = Live(browser, f"{address[where]}/{name}.html", **options)
        return opened[key]

    yield open_page
    for live in opened.values():
        live.page.context.close()
        assert not live.complaints
        assert all(
            url.startswith((*address.values(), "blob:", "data:")) for url in live.requests
        ), live.requests


def pictures() -> list[np.ndarray]:
    """20 pictures of Shapes: both variants, and other sizes than the model was trained on."""
    made = []
    for i in range(14):
        image, _ = Shapes("val", num=100, crowded=i % 3 == 2)[80 + i]
        made.append(image.permute(1, 2, 0).numpy())
    large, _ = Shapes("val", num=100, size=256)[99]
    for height, width in ((96, 160), (150, 101), (128, 256), (70, 90), (33, 47), (200, 120)):
        made.append(large[:, :height, :width].permute(1, 2, 0).numpy())
    return made


def close_calls(model: Any, image: np.ndarray) -> np.ndarray:
    """``(H, W)`` pixels whose two best classes, or queries, are equal up to rounding."""
    batch, sizes = preprocess(image, model.description["preprocessing"])
    if "features" in model.graphs:
        values = at_input_size(model.run("features", image=batch)["sem_seg_logits"][0], sizes)
    else:
        outputs = model.run("network", image=batch)
        scores = softmax(outputs["class_logits"][0]).max(axis=1)
        masks = sigmoid(at_input_size(outputs["mask_logits"][0], sizes))
        values = scores[:, None, None] * masks
    second, first = np.sort(values, axis=0)[-2:]
    return np.asarray(first - second < 1e-3)


def same_map(live: Live, panel: int, model: Any, image: np.ndarray) -> None:
    """The page's map is Python's: both round, so that it may differ where that decides."""
    expected = model(image)
    ids, segments = live.result(panel)
    assert [s["label"] for s in segments] == [s["label"] for s in expected.segments]
    scores = [[s.get("score", -1) for s in one] for one in (segments, expected.segments)]
    np.testing.assert_allclose(*scores, atol=5e-4)
    different = ids != expected.panoptic
    if different.any():
        assert different.sum() <= 5
        assert (different & ~close_calls(model, image)).sum() <= 1  # the border of a mask


def test_the_maps_are_those_of_python(open_live: Any) -> None:
    exported = [load(exported_model(name), threads=1) for name in MODELS]
    live = open_live("both")
    for image in pictures():
        live.answer(image)
        for panel, model in enumerate(exported):
            same_map(live, panel, model, image)


def renderers_seconds() -> float:
    """CPU time that the pages of the browser have taken."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "--type=renderer" in process.cmdline():
                times = process.cpu_times()
                seconds += times.user + times.system
    return seconds


PREDICT = """async ([panel, pictures]) => {
    const model = document.querySelector("labkit-live").panels[panel];
    const times = [];
    for (const [height, width, content] of pictures) {
        const rgb = Uint8ClampedArray.from(atob(content), (c) => c.charCodeAt(0));
        const start = performance.now();
        await model.predict({ height, width, rgb });
        times.push(performance.now() - start);
    }
    return times;
}"""


@pytest.mark.parametrize("panel", range(len(MODELS)))
def test_an_answer_is_quick(panel: int, open_live: Any) -> None:
    # Other tests use the same cores: the processor's time is what an answer takes without them.
    page = open_live("both").page
    packed = [[*p.shape[:2], base64.b64encode(p.tobytes()).decode()] for p in pictures()]
    page.evaluate(PREDICT, [panel, packed])
    before = renderers_seconds()
    times = page.evaluate(PREDICT, [panel, packed])
    processor = 1000 * (renderers_seconds() - before) / len(packed)
    print(
        f"{MODELS[panel]}: median answer {statistics.median(times):.0f} ms,"
        f" {processor:.0f} ms of the processor on average"
    )
    assert processor < NOISE * MILLISECONDS


@pytest.mark.parametrize("size", [(300, 200), (131, 640), (90, 1000), (100, 80)])
def test_a_file_is_reduced_as_pillow_does(size: tuple[int, int], open_live: Any) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    large, _ = Shapes("val", num=1, size=1024)[0]
    picture = Image.fromarray(large.permute(1, 2, 0).numpy()[:height, :width] // 2 + noise // 2)
    content = io.BytesIO()
    picture.save(content, "PNG")
    live = open_live("live")
    seen = live.answers
    file = {"name": "mine.png", "mimeType": "image/png", "buffer": content.getvalue()}
    live.page.locator("input[type=file]").set_input_files(file)
    live.wait_for_answer(seen)
    scale = min(1, 128 / min(size), 256 / max(size))
    smaller = (int(width * scale + 0.5), int(height * scale + 0.5))
    reduced = picture
    for step in ((smaller[0], height), smaller):  # rows first; Pillow alone chooses the order
        reduced = reduced.resize(step, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(live.shown(), np.asarray(reduced))
    same_map(live, 0, load(exported_model(MODELS[0]), threads=1), np.asarray(reduced))


@pytest.mark.parametrize("where", ["disk", "server"])
def test_keyboard_alone(where: str, open_live: Any) -> None:
    live = open_live("live", where)
    page = live.page
    page.reload()
    live.wait_for_answer(1)
    seen, before = live.answers, live.shown()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.firstChild.alt").startswith("Example: ")
    page.keyboard.press("Enter")
    live.wait_for_answer(seen)
    example = live.shown()
    assert (example != before).any()

    seen = live.answers
    while not page.evaluate("document.activeElement.matches('canvas')"):
        page.keyboard.press("Tab")
    for key in ("Shift+ArrowLeft", "Shift+ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    live.wait_for_answer(seen)
    rows, columns = (live.shown() != example).any(axis=2).nonzero()
    assert (rows.mean(), columns.mean()) == pytest.approx((54, 55), abs=1.5)  # a circle around it

    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # from circle to triangle, of the tools
    page.keyboard.press("Tab")
    page.keyboard.press("Home")  # the smallest size
    assert live.page.evaluate("document.activeElement.type") == "range"
    seen = live.answers
    while page.evaluate("document.activeElement.textContent") != "undo":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    live.wait_for_answer(seen)
    np.testing.assert_array_equal(live.shown(), example)

    while "score" not in page.evaluate("document.activeElement.parentElement.textContent"):
        page.keyboard.press("Tab")
    seen = live.answers
    page.keyboard.press("End")
    live.wait_for_answer(seen)
    _, segments = live.result()
    assert all("score" not in segment for segment in segments)  # no object has a score of 1
    page.wait_for_function(  # announced a moment after the answer
        """() => {
            const text = document.querySelector("[role=status]").textContent;
            return text.startsWith("Panoptic FPN: ") && !/circle|square|triangle/.test(text);
        }"""
    )


def test_a_threshold_changes_the_map_and_not_the_network(open_live: Any) -> None:
    image, _ = Shapes("val", num=100, crowded=True)[2]
    pixels = image.permute(1, 2, 0).numpy()
    live = open_live("live")
    live.answer(pixels)
    model = load(exported_model(MODELS[0]), threads=1)
    for score, overlap in ((0.05, 0.5), (0.9, 0.1), (0.2, 1.0)):
        live.page.evaluate(
            "() => { window.before = document.querySelector('labkit-live').panels[0].raw; }"
        )
        for name, value in (("score threshold", score), ("largest hidden part", overlap)):
            live.page.get_by_label(name).fill(str(value))
        live.page.evaluate("() => document.querySelector('labkit-live').answered")
        assert live.page.evaluate(
            "() => document.querySelector('labkit-live').panels[0].raw === window.before"
        )
        model.description["config"]["merge"].update(score_thresh=score, overlap_thresh=overlap)
        same_map(live, 0, model, pixels)
    live.page.get_by_role("button", name="own thresholds").click()
    live.page.evaluate("() => document.querySelector('labkit-live').answered")
    same_map(live, 0, load(exported_model(MODELS[0]), threads=1), pixels)


def test_drawing_with_the_mouse(open_live: Any) -> None:
    live = open_live("live")
    page = live.page
    page.reload()  # the brush may have another size by now
    live.wait_for_answer(0)
    live.answer(pictures()[0])
    before = live.shown()
    page.get_by_label("sand", exact=True).check()
    box = page.locator(".labkit-live-board canvas").bounding_box()
    seen = live.answers
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    live.wait_for_answer(seen)
    page.evaluate("() => document.querySelector('labkit-live').answered")
    changed = (live.shown() != before).any(axis=2)
    assert changed[60:68, 40:88].mean() > 0.9
    assert not changed[:40].any()
    _, segments = live.result()
    assert 6 in [segment["label"] for segment in segments]  # sand
    page.get_by_role("button", name="undo").click()
    np.testing.assert_array_equal(live.shown(), before)


def test_what_is_no_picture_is_refused_and_the_picture_stays(open_live: Any) -> None:
    live = open_live("live")
    before = live.shown()
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    live.page.locator("input[type=file]").set_input_files(file)
    alert = live.page.locator("labkit-live [role=alert]")
    alert.wait_for()
    assert "notes.txt is not an image" in alert.inner_text()
    np.testing.assert_array_equal(live.shown(), before)


def test_a_phone_shows_all_of_it(open_live: Any) -> None:
    live = open_live("both", size=(360, 700))
    assert live.page.evaluate("document.documentElement.scrollWidth") <= 360
