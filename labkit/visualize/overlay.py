"""Overlays: an annotation's regions over a grey image, with outlines, names and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from torch import Tensor

from labkit.colors import object_color, shaded, to_matplotlib
from labkit.structures import Categories, Detections
from labkit.visualize.regions import Annotation, Region, regions

SMALLEST_NAMED = 6.0
"""Radius, in points of the figure, of the smallest circle in a region that gets its name: in a
smaller one the text would hide the region and its neighbours' names."""

OPACITY = 0.75
"""Opacity of a region: less, and a bright or dark image changes the colour of a class."""

DRAWN_SIDE = 384
"""Side to which smaller images are enlarged before their outlines are drawn."""


def overlay(
    image: Tensor,
    annotation: Annotation,
    categories: Categories,
    alpha: float = OPACITY,
    scale: int = 1,
    by_object: bool = False,
) -> np.ndarray:
    """Blend an annotation over the image, drawn in grey: only the regions have colours.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        annotation: what to draw; without one the image keeps its colours.
        categories: gives the colours.
        alpha: opacity of the regions, 0 to 1.
        scale: enlarge the image by this factor, so that an outline, one pixel of the result,
            stays thin over a small image.
        by_object: color each object, not each class; stuff and the classes of a semantic map
            keep their class's colour.

    Returns:
        ``(scale * H, scale * W, 3)`` uint8 RGB.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
    if annotation is not None:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    base = _enlarged(pixels, scale).astype(np.float32)
    drawn = [(r, _enlarged(r.mask, scale)) for r in regions(annotation, categories)]
    for region, mask in drawn:
        color = np.array(_color(region, categories, by_object), np.float32)
        base[mask] = (1 - alpha) * base[mask] + alpha * color
    for _, mask in drawn:
        base[_outline(mask)] = 255.0
    return base.round().astype(np.uint8)


def draw(
    axes: Axes,
    image: Tensor,
    annotation: Annotation,
    categories: Categories,
    *,
    names: bool = True,
    alpha: float = OPACITY,
    by_object: bool = False,
    scores: bool = True,
) -> None:
    """Draw :func:`overlay` into ``axes``, with each region's name at its most interior point.

    Objects also get their boxes; things carry the segment id, detections their score.
    """
    height, width = image.shape[1:]
    scale = max(1, DRAWN_SIDE // max(height, width))
    picture = overlay(image, annotation, categories, alpha, scale, by_object)
    axes.imshow(picture, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    axes.set_axis_off()
    if isinstance(annotation, Detections):
        boxes = zip(annotation.boxes.tolist(), annotation.labels.tolist(), strict=True)
        for i, (box, label) in enumerate(boxes):
            x1, y1, x2, y2 = (value - 0.5 for value in box)  # pixel edges in imshow's centres
            color = to_matplotlib(
                _object_color(i, categories) if by_object else categories[label].color or (0, 0, 0)
            )
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=color, linewidth=1.5)
    if not names:
        return
    figure = axes.get_figure()
    assert figure is not None
    points_per_pixel = axes.bbox.width / figure.dpi * 72 / width
    for region in regions(annotation, categories, scores=scores):
        x, y, radius = _interior_point(region.mask)
        if radius * points_per_pixel < SMALLEST_NAMED:
            continue
        text = axes.text(
            x, y, region.text, color="white", fontsize=7, ha="center", va="center", clip_on=True
        )
        text.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])


def annotated(
    image: Tensor, annotation: Annotation, categories: Categories, by_object: bool = False
) -> np.ndarray:
    """Draw as :func:`draw` does, into the image's own pixels, for a frame of a video.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    pixels = overlay(image, annotation, categories, by_object=by_object)
    if isinstance(annotation, Detections):
        for i, label in enumerate(annotation.labels.tolist()):
            color = _object_color(i, categories) if by_object else categories[label].color
            x1, y1, x2, y2 = (round(value) for value in annotation.boxes[i].tolist())
            cv2.rectangle(pixels, (x1, y1), (x2 - 1, y2 - 1), color or (0, 0, 0), 2)
    for region in regions(annotation, categories):
        x, y, radius = _interior_point(region.mask)
        if radius < SMALLEST_NAMED:
            continue
        font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
        (width, height), _ = cv2.getTextSize(region.text, font, size, 1)
        left = min(max(round(x - width / 2), 1), max(pixels.shape[1] - width - 1, 1))
        bottom = round(y + height / 2)
        # Thicker letters would be wider: the black outline is the text, moved by a pixel.
        moves = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
        for color, places in (((0, 0, 0), moves), ((255, 255, 255), [(0, 0)])):
            for dx, dy in places:
                start = (left + dx, bottom + dy)
                cv2.putText(pixels, region.text, start, font, size, color, 1, cv2.LINE_AA)
    return pixels


def _enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """``(H, W, ...)`` to ``(scale * H, scale * W, ...)``, each pixel repeated."""
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _color(region: Region, categories: Categories, by_object: bool) -> Sequence[float]:
    if by_object and region.number is not None:
        return _object_color(region.number, categories)
    return shaded(categories[region.label].color or (0, 0, 0), region.shade)


def _object_color(number: int, categories: Categories) -> tuple[int, int, int]:
    return object_color(number, {categories[label].color for label in categories.stuff})


def _outline(mask: np.ndarray) -> np.ndarray:
    """The region's own pixels that touch another region; the image border is not an outline."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    return mask & (inner == 0)


def _interior_point(mask: np.ndarray) -> tuple[float, float, float]:
    """The pixel (x, y) farthest from the region's border, and its distance."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x), float(y), float(distance.max())
