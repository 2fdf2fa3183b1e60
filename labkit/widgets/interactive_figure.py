"""A picture that answers: it reports clicks, dragged boxes and arrow keys in its own pixels.

Apps draw with matplotlib and show the PNG here. What a reader does comes back as a point or a box
in pixels of that PNG; :func:`place` says which axes that is, and where in them.
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
    """A point of a figure: the label of the axes it lies in, and its data coordinates there."""

    axes: str
    x: float
    y: float


def place(figure: Figure, x: float, y: float) -> Place | None:
    """Where a pixel of a figure's PNG lies.

    Args:
        figure: one whose axes have fixed positions and labels (``axes.set_label``).
        x, y: pixels of :func:`labkit.widgets.app.png` of it, from the upper left corner.

    Returns:
        The place in the labelled axes there, or None between them.
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
    """The pixel of the figure's PNG that shows a point of axes; undoes :func:`place`."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    across, up = axes.transData.transform((x, y)) * DPI / figure.dpi
    return float(across), float(figure.get_figheight() * DPI - up)


def pixel_box(axes: Axes, box: Sequence[float]) -> Box:
    """The pixels ``(x1, y1, x2, y2)`` of a box given in data coordinates of axes."""
    return _sorted(pixels(axes, box[0], box[1]), pixels(axes, box[2], box[3]))


def data_box(axes: Axes, box: Sequence[float]) -> Box:
    """The data coordinates of a box given in pixels, which may reach beyond the axes."""
    (left, top), (right, bottom) = pixels(axes, 0, 0), pixels(axes, 1, 1)
    x = [(v - left) / (right - left) for v in (box[0], box[2])]
    y = [(v - top) / (bottom - top) for v in (box[1], box[3])]
    return _sorted((x[0], y[0]), (x[1], y[1]))


def _sorted(a: Point, b: Point) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


class InteractiveFigure(anywidget.AnyWidget):
    """Shows a PNG and reports what is done to it, by mouse, finger or keyboard.

    It can have the focus, has a name for screen readers, and keeps its keys from JupyterLab. In
    each of its ``areas`` a box can be drawn; the one that is there, of the same place in ``boxes``,
    can be moved and, at its corners, resized. All are ``(x1, y1, x2, y2)`` in pixels of the PNG.

    Args:
        label: its name, for example "Feature map with a box".
        help: one line under the picture: what the mouse and the keys do.
        on_click: called with (x, y).
        on_box: called with the number of an area and the box that was drawn, moved or resized.
        on_move: called with (dx, dy, resize): steps right and down of the arrow keys, with shift
            held (resize) or not.
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
        """Another picture with its text alternative, and as many boxes as areas."""
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
            # The page holds back what comes next until this one is done, whatever came of it.
            self.send({"kind": "done"})
