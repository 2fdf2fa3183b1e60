"""Segment layers over an image, and their exact pixels: the viewer's drawing without a browser.

The arithmetic is integer and the same in ``viewer.js``, so that the canvas and :func:`draw_layer`
agree to the last bit. ``H`` × ``W`` are the pixels of the image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from labkit.errors import LabkitError
from labkit.structures import VOID, Categories, Detections, Panoptic

OUTLINE = 255
"""Outlines are white: no class has this colour, and on a white image the fill still differs."""

LUMINANCE = np.array([77, 150, 29], np.uint32)
"""Weights of red, green and blue in the grey of a pixel, of 256."""

SMALLEST_SIDE = 384
"""Side to which smaller images are enlarged, so that an outline stays thin."""

SMALLEST_NAMED = 0.035
"""A segment is named if a circle fits into it whose radius is this share of the longer side."""


@dataclass(frozen=True)
class SegmentInfo:
    """Name, colour and notes of one segment.

    Attributes:
        text: class name and id.
        color: RGB, 0..255.
        isthing: whether it is a thing, for the filters.
        score: confidence, or None.
        note: more text for pointing, for example ``"TP, IoU 0.83"``.
        match: segments of different layers with the same number are linked: pointing at one
            outlines all of them.
    """

    text: str
    color: tuple[int, int, int]
    isthing: bool
    score: float | None = None
    note: str = ""
    match: int | None = None

    @property
    def description(self) -> str:
        """Describe the segment in one line."""
        score = "" if self.score is None else f"score {self.score:.2f}"
        return " · ".join(part for part in (self.text, score, self.note) if part)


@dataclass(frozen=True)
class Layer:
    """Segments of one panel, over an image that all panels share.

    Attributes:
        title: title of the panel.
        ids: ``(H, W)`` int32, 0 = nothing.
        info: information by segment id.
        message: text instead of segments, if the panel has none.

    Raises:
        LabkitError: ``ids`` is no map, or holds an id without an entry in ``info``.
    """

    title: str
    ids: np.ndarray
    info: Mapping[int, SegmentInfo]
    message: str | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype != np.int32:
            raise LabkitError(
                f'layer "{self.title}": ids must be (H, W) int32,'
                f" got {self.ids.shape} {self.ids.dtype}"
            )
        unknown = [i for i in np.unique(self.ids).tolist() if i != VOID and i not in self.info]
        if unknown:
            raise LabkitError(
                f'layer "{self.title}": id {unknown[0]} occurs in the map and is not described'
            )

    def describe(self, x: int, y: int) -> str:
        """Describe the segment at pixel (x, y) in one line."""
        found = int(self.ids[y, x])
        return self.info[found].description if found != VOID else "nothing"


def layer_of(annotation: Panoptic | Detections, categories: Categories, title: str) -> Layer:
    """Make the layer of a panoptic map, or of detections, with higher scores on top.

    The ids of detections are 1 for the best, 2 for the next, and so on.

    Raises:
        LabkitError: the detections have no masks.
    """
    if isinstance(annotation, Panoptic):
        info = {}
        for segment in annotation.segments:
            category = categories[segment.label]
            text = f"{category.name} {segment.id}" if category.isthing else category.name
            text += " (crowd)" if segment.iscrowd else ""
            info[segment.id] = SegmentInfo(text, category.color, category.isthing, segment.score)
        return Layer(title, annotation.ids.numpy(force=True), info)
    if annotation.masks is None:
        raise LabkitError(f'layer "{title}": these detections have boxes only, no masks to show')
    masks = annotation.masks.numpy(force=True)
    ids = np.zeros(masks.shape[1:], np.int32)
    for number in range(len(masks), 0, -1):
        ids[masks[number - 1]] = number
    found = zip(annotation.labels.tolist(), annotation.scores.tolist(), strict=True)
    return Layer(
        title,
        ids,
        {
            number: SegmentInfo(
                f"{categories[label].name} {number}", categories[label].color, True, score
            )
            for number, (label, score) in enumerate(found, start=1)
        },
    )


def enlargement(height: int, width: int) -> int:
    """Canvas pixels per side of an image pixel."""
    return max(1, SMALLEST_SIDE // max(height, width))


def draw_layer(
    image: Tensor | np.ndarray,
    layer: Layer,
    opacity: float,
    shown: Collection[int] | None = None,
    *,
    scale: int = 1,
) -> np.ndarray:
    """Draw the pixels of one panel: the image, the shown segments, their outlines on top.

    Below a segment the image is grey: over its colours, the segment's could be taken for another.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        layer: the segments.
        opacity: opacity of the segments, 0 to 1; outlines are always drawn.
        shown: ids to draw; None for all.
        scale: canvas pixels per image pixel; the viewer uses :func:`enlargement`.

    Returns:
        ``(scale * H, scale * W, 3)`` uint8 RGB.
    """
    base = np.asarray(image).transpose(1, 2, 0)  # (H, W, 3)
    known = np.array([VOID, *layer.info], np.int32)
    order = np.argsort(known)
    number = order[np.searchsorted(known, layer.ids, sorter=order)]  # (H, W), positions in known
    colors = np.array([(0, 0, 0), *(i.color for i in layer.info.values())], np.uint16)
    visible = np.array([False, *(shown is None or i in shown for i in layer.info)])

    alpha = int(256 * opacity + 0.5)
    grey = (base @ LUMINANCE + 128) >> 8  # (H, W)
    mixed = (grey[..., None] * (256 - alpha) + colors[number] * np.uint32(alpha) + 128) >> 8
    pixels = np.where(visible[number][..., None], mixed, base).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    outlined = visible[number].repeat(scale, axis=0).repeat(scale, axis=1)
    pixels[outlined & _borders(number, scale)] = OUTLINE
    return pixels


def draw_layers(
    image: Tensor | np.ndarray,
    layers: Sequence[Layer],
    opacity: float = 0.6,
    hidden: Collection[tuple[int, int]] = (),
) -> Figure:
    """Draw the panels side by side, with titles and the segments' names.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        layers: the panels.
        opacity: see :func:`draw_layer`.
        hidden: (index of the layer, id) of segments that are not drawn.
    """
    height, width = np.asarray(image).shape[1:]
    columns = min(4, len(layers))
    rows = -(-len(layers) // columns)
    panel = min(10 / columns, 3.4 if columns > 1 else 5.0)  # inches; a page has ten
    size = (panel * columns, rows * (panel * height / width + 0.3) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(layers) :]:
        axes.set_axis_off()
    for k, (axes, layer) in enumerate(zip(grid, layers, strict=False)):
        draw_panel(axes, image, layer, opacity, {i for i in layer.info if (k, i) not in hidden})
        if len(layer.title) > 13 * panel:  # characters of the title's size in an inch
            axes.set_title(layer.title.replace(": ", ":\n", 1), fontsize=10)
    return figure


def draw_panel(
    axes: Axes,
    image: Tensor | np.ndarray,
    layer: Layer,
    opacity: float = 0.6,
    shown: Collection[int] | None = None,
) -> None:
    """Draw one panel into ``axes``, with the names of its segments; see :func:`draw_layer`."""
    height, width = np.asarray(image).shape[1:]
    axes.set_axis_off()
    axes.set_title(layer.title, fontsize=10)
    if layer.message is not None:
        axes.set_box_aspect(height / width)
        message = textwrap.fill(layer.message, 44)
        axes.text(0.5, 0.5, message, ha="center", va="center", fontsize=9, in_layout=False)
        return
    pixels = draw_layer(image, layer, opacity, shown, scale=enlargement(height, width))
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    for i, (x, y) in name_places(layer).items():
        if shown is None or i in shown:
            text = axes.text(
                x, y, layer.info[i].text, color="white", fontsize=8, ha="center", va="center"
            )
            text.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])


def name_places(layer: Layer) -> dict[int, tuple[float, float]]:
    """Positions of the names of large segments: their most interior points."""
    places: dict[int, tuple[float, float]] = {}
    if layer.message is not None:
        return places
    needed = SMALLEST_NAMED * max(layer.ids.shape)
    for i in np.unique(layer.ids).tolist():
        if i == VOID:
            continue
        inside = (layer.ids == i).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(inside)
        if min(width, height) < 2 * needed:
            continue
        part = cv2.copyMakeBorder(
            inside[top : top + height, left : left + width], 1, 1, 1, 1, cv2.BORDER_CONSTANT
        )
        distance = cv2.distanceTransform(part, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        if distance[y, x] >= needed:
            places[i] = (float(left + x) + 0.5, float(top + y) + 0.5)
    return places


def _borders(number: np.ndarray, scale: int) -> np.ndarray:
    """Border mask ``(scale * H, scale * W)``: one of the eight neighbours has another number."""
    large = number.repeat(scale, axis=0).repeat(scale, axis=1).astype(np.float32)  # OpenCV's choice
    kernel = np.ones((3, 3), np.uint8)
    # At the image border the neighbours outside count as equal.
    low = cv2.erode(large, kernel, borderType=cv2.BORDER_REPLICATE)
    high = cv2.dilate(large, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(low != high)
