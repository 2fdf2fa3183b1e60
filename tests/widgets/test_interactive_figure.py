"""The interactive picture, without a browser."""

import pytest
from matplotlib.figure import Figure

from labkit.widgets.app import png
from labkit.widgets.interactive_figure import (
    InteractiveFigure,
    Place,
    data_box,
    pixel_box,
    pixels,
    place,
)


def figure():
    """4 × 2 inches: a map of 10 × 10 cells on the left, y downwards, and nameless axes."""
    made = Figure(figsize=(4, 2))
    left = made.add_axes((0.1, 0.2, 0.4, 0.6))
    left.set(xlim=(0, 10), ylim=(10, 0))
    left.set_label("map")
    made.add_axes((0.6, 0.2, 0.3, 0.6))
    png(made)
    return made, left


def test_places_and_pixels_by_hand():
    made, axes = figure()
    # The map covers pixels 40 to 200 across and 40 to 160 down of 400 × 200.
    assert pixels(axes, 0, 0) == pytest.approx((40, 40))
    assert pixels(axes, 10, 10) == pytest.approx((200, 160))
    at = place(made, 120, 70)
    assert at == Place("map", pytest.approx(5), pytest.approx(2.5))
    assert place(made, 10, 10) is None
    assert place(made, 300, 100) is None  # axes without a label


def test_boxes_there_and_back():
    _, axes = figure()
    assert pixel_box(axes, (1, 2, 4, 5)) == pytest.approx((56, 64, 104, 100))
    assert data_box(axes, (56, 64, 104, 100)) == pytest.approx((1, 2, 4, 5))
    assert data_box(axes, (104, 100, 24, 64)) == pytest.approx((-1, 2, 4, 5))  # sorted, and beyond


class Recorder(InteractiveFigure):
    """A canvas that keeps what it would send to the page."""

    def __init__(self):
        self.calls, self.sent = [], []
        super().__init__(
            "Picture",
            "Click.",
            on_click=lambda *values: self.calls.append(("click", *values)),
            on_box=lambda *values: self.calls.append(("box", *values)),
            on_move=lambda *values: self.calls.append(("move", *values)),
        )

    def send(self, content, buffers=None):
        self.sent.append(content)


def test_events_reach_their_callbacks_and_are_acknowledged():
    canvas = Recorder()
    for event in (
        {"kind": "click", "x": 3, "y": 4.5},
        {"kind": "box", "area": 1, "box": [1, 2, 3, 4]},
        {"kind": "move", "dx": -2, "dy": 0, "resize": True},
    ):
        canvas._handle_custom_msg(event, [])
    assert canvas.calls == [
        ("click", 3.0, 4.5),
        ("box", 1, (1.0, 2.0, 3.0, 4.0)),
        ("move", -2, 0, True),
    ]
    assert canvas.sent == [{"kind": "done"}] * 3


def test_a_broken_event_is_acknowledged_too():
    canvas = Recorder()
    with pytest.raises(KeyError):
        canvas._receive(canvas, {"kind": "click"}, [])
    assert canvas.sent == [{"kind": "done"}]


def test_show():
    canvas = Recorder()
    canvas.show(b"png", "What it shows", [(0, 0, 10, 10)], [(1, 1, 2, 2)])
    assert (canvas.picture, canvas.description) == (b"png", "What it shows")
    assert (canvas.areas, canvas.boxes) == ([[0, 0, 10, 10]], [[1, 1, 2, 2]])
