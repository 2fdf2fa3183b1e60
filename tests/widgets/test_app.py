"""What all apps share: pictures as bytes, errors that show, the MIME bundle."""

import base64
import io

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from labkit import widgets
from labkit.errors import LabkitError
from labkit.widgets.app import App, png
from labkit.widgets.offline_page import MIME
from labkit.workbook.records import RECORDING


class Counter(App):
    """A number, and a callback that refuses negative ones."""

    def __init__(self) -> None:
        self.number = ipywidgets.IntSlider(1, -5, 5, description="number")
        super().__init__("counter", [self.number])
        self.number.observe(self.guarded(self.change), "value")

    def change(self, change) -> None:
        if change["new"] < -3:
            raise ZeroDivisionError("far too small")
        if change["new"] < 0:
            raise LabkitError("the number must not be negative: move the slider right")
        self.status = f"number {change['new']}"
        self.ready()

    def still(self):
        if self.number.value == 5:
            raise LabkitError("five has no picture")
        return png(np.zeros((2, 3, 3), np.uint8)), f"a counter at {self.number.value}"


def figure():
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([0, 1], [1, 0])
    return drawn


def test_a_figure_gives_the_same_bytes_each_time():
    data = png(figure())
    assert data == png(figure())
    assert Image.open(io.BytesIO(data)).size == (200, 100)


def test_an_array_comes_back_from_its_png():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_errors_in_callbacks_show_until_the_next_success():
    app = Counter()
    app.number.value = -1
    assert app.error == "the number must not be negative: move the slider right"
    app.number.value = -4
    assert app.error.startswith("ZeroDivisionError: far too small")
    assert "in change" in app.error  # the line it came from
    app.number.value = 2
    assert app.error == ""
    assert app.status == "number 2"


def test_a_failure_also_ends_the_waiting():
    app = Counter()
    before = app._frame.ready
    app.number.value = -1
    assert app._frame.ready == before + 1


def test_the_bundle_holds_a_picture_and_a_text():
    app = Counter()
    bundle = app._repr_mimebundle_()
    assert bundle["text/plain"] == "a counter at 1"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (3, 2)
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_still_that_fails_leaves_the_widget():
    app = Counter()
    app.number.value = 5
    bundle = app._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "image/png" not in bundle
    assert app.error == "five has no picture"


@pytest.mark.parametrize("name", widgets.__all__)
def test_every_app_has_a_picture_of_its_own_for_where_no_widget_can_live(name):
    app = getattr(widgets, name)
    assert callable(app.still)
    assert app.still is not App.still
    assert app.offline is not App.offline


@pytest.mark.parametrize("recorded", [False, True])
def test_only_outputs_that_become_pages_carry_the_page(recorded, monkeypatch):
    monkeypatch.setenv(RECORDING, "1" if recorded else "")
    app = Counter()
    app.offline = lambda: "<p>a page</p>"
    bundle = app._repr_mimebundle_()
    assert bundle.get(MIME) == ("<p>a page</p>" if recorded else None)
    assert "image/png" in bundle
