"""Interactive figure: a PNG in the browser that reports clicks, dragged boxes and arrow keys.

Apps draw with matplotlib and show the PNG here. Clicks and boxes come back in pixels of that PNG;
:func:`place` converts a pixel to axes and data coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit.widgets.app import DPI

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Place:
    """A point in a figure: the label of its axes, and its data coordinates there."""

    axes: str
    x: float
    y: float


def place(figure: Figure, x: float, y: float) -> Place | None:
    """Convert a pixel of a figure's PNG to axes and data coordinates.

    Args:
        figure: one whose axes have fixed positions and labels (``axes.set_label``).
        x, y: pixels of :func:`labkit.widgets.app.png` of it, from the upper left corner.

    Returns:
        The place in labelled axes; None outside all of them.
    """
    height = figure.get_figheight() * DPI
    at = (x * figure.dpi / DPI, (height - y) * figure.dpi / DPI)
    for axes in figure.axes:
        label = str(axes.get_label())
        if label and axes.bbox.contains(*at):
            data = axes.transData.inverted().transform(at)
            return Place(label, float(data[0]), float(data[1]))
    return None


def pixels(axes: Axes, x: float, y: float) -> Point:
    """Convert data coordinates to a pixel of the figure's PNG; the inverse of :func:`place`."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    across, up = axes.transData.transform((x, y)) * DPI / figure.dpi
    return float(across), float(figure.get_figheight() * DPI - up)


def pixel_box(axes: Axes, box: Sequence[float]) -> Box:
    """Convert a box in data coordinates of axes to pixels ``(x1, y1, x2, y2)``."""
    return _sorted(pixels(axes, box[0], box[1]), pixels(axes, box[2], box[3]))


def data_box(axes: Axes, box: Sequence[float]) -> Box:
    """Convert a box in pixels, which may exceed the axes, to data coordinates."""
    (left, top), (right, bottom) = pixels(axes, 0, 0), pixels(axes, 1, 1)
    x = [(v - left) / (right - left) for v in (box[0], box[2])]
    y = [(v - top) / (bottom - top) for v in (box[1], box[3])]
    return _sorted((x[0], y[0]), (x[1], y[1]))


def _sorted(a: Point, b: Point) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


class InteractiveFigure(anywidget.AnyWidget):
    """Widget that shows a PNG and reports input by mouse, touch or keyboard.

    It can be focused, has a name for screen readers, and keeps its keys from JupyterLab. A box can
    be drawn in each of its ``areas``. The box with the same index in ``boxes`` can be moved and, at
    its corners, resized. All are ``(x1, y1, x2, y2)`` in pixels of the PNG.

    Args:
        label: name of the widget, for example "Feature map with a box".
        help: one line under the picture that explains mouse and keys.
        on_click: called with (x, y).
        on_box: called with the index of an area and the box that was drawn, moved or resized.
        on_move: called with (dx, dy, resize): steps right and down of the arrow keys; ``resize`` is
            True with the shift key.
    """

    _esm = Path(__file__).with_name("interactive_figure.js")
    _css = Path(__file__).with_name("interactive_figure.css")
    picture = traitlets.Bytes(b"").tag(sync=True)
    description = traitlets.Unicode("").tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    help = traitlets.Unicode("").tag(sync=True)
    areas = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    boxes = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)

    def __init__(
        self,
        label: str,
        help: str,
        *,
        on_click: Callable[[float, float], Any],
        on_box: Callable[[int, Box], Any] | None = None,
        on_move: Callable[[int, int, bool], Any],
    ) -> None:
        super().__init__(label=label, help=help)
        self._on_click, self._on_box, self._on_move = on_click, on_box, on_move
        self.on_msg(self._receive)

    def show(
        self,
        picture: bytes,
        description: str,
        areas: Sequence[Sequence[float]] = (),
        boxes: Sequence[Sequence[float]] = (),
    ) -> None:
        """Show another picture with its text alternative, and one box for each area."""
        with self.hold_sync():
            self.picture, self.description = picture, description
            self.areas, self.boxes = [list(a) for a in areas], [list(b) for b in boxes]

    def _receive(self, _: Any, event: dict[str, Any], __: Any) -> None:
        try:
            if event["kind"] == "click":
                self._on_click(float(event["x"]), float(event["y"]))
            elif event["kind"] == "box" and self._on_box is not None:
                x1, y1, x2, y2 = map(float, event["box"])
                self._on_box(int(event["area"]), (x1, y1, x2, y2))
            elif event["kind"] == "move":
                self._on_move(int(event["dx"]), int(event["dy"]), bool(event["resize"]))
        finally:
            # The page waits for this message before it sends the next event, also after an error.
            self.send({"kind": "done"})
