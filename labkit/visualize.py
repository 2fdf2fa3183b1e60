"""Pictures: overlays with names and ids, panels side by side, loss curves.

Every function takes arrays and returns an array or a matplotlib ``Figure``; none keeps state or
shows anything by itself. A region is never told by colour alone: instances of a class differ in
shade, every region has an outline, and names stand on the picture, so that the pictures read
without colour vision and beyond the ten colours that stay distinct.
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
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from labkit.structures import IGNORE, Categories, Detections, Panoptic, distinct_colors

Annotation = Panoptic | Detections | Tensor | None
"""What can be drawn over an image: a panoptic map, objects, or a semantic map ``(H, W)`` int64."""

SMALLEST_NAMED = 6.0
"""A region gets its name when a circle of this radius, in points of the printed figure, fits into
it: below that the text would hide the region and its neighbours' names."""

DRAWN_SIDE = 384
"""Smaller images are enlarged to about this side before outlines are drawn."""


@dataclass(frozen=True)
class Region:
    """One drawable region: ``mask`` ``(H, W)`` bool, its class, its text, its shade, and the number
    of the object that it is; stuff and classes of a semantic map have none."""

    mask: np.ndarray
    label: int
    text: str
    shade: float
    number: int | None = None


def regions(annotation: Annotation, categories: Categories, *, scores: bool = True) -> list[Region]:
    """The regions of an annotation, in drawing order (later ones on top).

    Args:
        annotation: what is drawn.
        categories: of its labels.
        scores: whether objects carry their scores; the truth has none.
    """
    if annotation is None:
        return []
    annotation = annotation.to("cpu")
    if isinstance(annotation, Panoptic):
        return _panoptic_regions(annotation, categories)
    if isinstance(annotation, Detections):
        return _detection_regions(annotation, categories, scores)
    semantic = annotation.numpy()
    present = [int(v) for v in np.unique(semantic) if v != IGNORE]
    return [Region(semantic == v, v, categories[v].name, 0.0) for v in present]


def overlay(
    image: Tensor,
    annotation: Annotation,
    categories: Categories,
    alpha: float = 0.6,
    scale: int = 1,
    by_object: bool = False,
) -> np.ndarray:
    """Blend an annotation over an image.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        annotation: what to draw; pixels outside its regions keep the image.
        categories: gives the colours.
        alpha: 0 shows the image alone, 1 the regions alone.
        scale: enlarge the picture by this factor, so that an outline, one pixel of the result,
            stays thin over a small image.
        by_object: a colour for each object, not for each class; stuff, and the classes of a
            semantic map, keep theirs.

    Returns:
        ``(scale * H, scale * W, 3)`` uint8 RGB.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
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
    alpha: float = 0.6,
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
            color = _rgb(
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


def panels(
    items: Sequence[tuple[str, Tensor, Annotation]],
    categories: Categories,
    *,
    columns: int = 4,
    names: bool = True,
    size: float = 2.8,
    by_object: bool = False,
    scores: bool = True,
) -> Figure:
    """Pictures side by side with titles and one legend of the classes that occur.

    Args:
        items: (title, image ``(3, H, W)`` uint8, what to draw over it) each.
        categories: names and colours.
        columns: pictures in a row.
        names: write each region's name on it.
        size: width of a picture in inches.
        by_object: a colour for each object, not for each class; stuff, and the classes of a
            semantic map, keep theirs.
        scores: whether objects carry their scores; the truth has none.
    """
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    heights = [image.shape[1] / image.shape[2] for _, image, _ in items]
    tall = rows * (size * max(heights) + 0.35)  # a title over each row
    figure = Figure(figsize=(size * columns, tall), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, image, annotation) in zip(grid, items, strict=False):
        draw(
            axes,
            image,
            annotation,
            categories,
            names=names,
            by_object=by_object,
            scores=scores,
        )
        axes.set_title(title, fontsize=9)
    for axes in grid[len(items) :]:
        axes.set_axis_off()
    present = [r for _, _, annotation in items for r in regions(annotation, categories)]
    objects = {r.label for r in present if by_object and r.number is not None}
    if present:
        legend = add_legend(figure, categories, sorted({r.label for r in present}), objects)
        figure.set_figheight(tall + legend.get_window_extent().height / figure.dpi + 0.1)
    return figure


def add_legend(
    figure: Figure,
    categories: Categories,
    labels: Sequence[int],
    by_object: Collection[int] = (),
) -> Legend:
    """One legend under the figure: each class with its colour.

    Args:
        figure: gets the legend.
        categories: names and colours.
        labels: the classes that occur.
        by_object: those of them whose objects have a colour each. No colour stands for such a
            class: the legend's title names it, without a patch.
    """
    patches = [
        Patch(
            facecolor=_rgb(categories[v].color or (0, 0, 0)),
            edgecolor="0.3",
            label=_kind(categories, v),
        )
        for v in labels
        if v not in by_object
    ]
    things = ", ".join(categories[v].name for v in labels if v in by_object)
    title = f"a colour for each object: {things}" if things else ""
    characters = int(figure.get_figwidth() * 15)  # of this font size, on one line
    longest = max((len(str(patch.get_label())) for patch in patches), default=0)
    columns = characters // (longest + 9)  # a patch and the gaps take as much as nine characters
    return figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=max(1, min(8, columns, len(patches))),
        fontsize=8,
        frameon=False,
        title=textwrap.fill(title, characters),
        title_fontsize=8,
    )


def loss_curves(runs: Mapping[str, Sequence[float]], smooth: int = 20) -> Figure:
    """Losses against steps: faint as they were, strong as the mean of the last ``smooth`` steps.

    Args:
        runs: name of the curve to one value per step.
        smooth: steps in the running mean.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    _draw_losses(axes, runs, smooth, first=0)
    if runs:
        axes.legend(frameon=False)
    return figure


def training_curves(
    losses: Mapping[str, Sequence[float]], validation: Mapping[str, Mapping[int, float]]
) -> Figure:
    """A training's losses and, below them, what was measured on the way.

    Args:
        losses: name to one value per step.
        validation: name of a metric to its value in 0..1 after a number of steps.
    """
    figure = Figure(figsize=(8, 4.2 + 2.2 * bool(validation)), layout="constrained")
    steps = len(next(iter(losses.values()), ()))
    smooth = min(20, 1 + steps // 10)  # of a short run too, more than a point is drawn strongly
    if not validation:
        axes = figure.subplots()
        _draw_losses(axes, losses, smooth, first=1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return figure
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    _draw_losses(above, losses, smooth, first=1)
    figure.legend(*above.get_legend_handles_labels(), loc="outside right upper")
    above.set_xlabel("")
    for name, values in validation.items():
        below.plot(list(values), [100 * value for value in values.values()], "o-", label=name)
    below.set_xlabel("step")
    below.set_ylabel(f"{', '.join(validation)} (%)")
    below.set_ylim(bottom=0)
    below.grid(alpha=0.3)
    return figure


def _draw_losses(axes: Axes, runs: Mapping[str, Sequence[float]], smooth: int, first: int) -> None:
    styles = ("-", "--", "-.", ":")  # curves differ in dash as well as in colour
    for i, (name, values) in enumerate(runs.items()):
        color = _rgb(distinct_colors(len(runs))[i])
        steps = np.arange(first, first + len(values))
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        window = min(smooth, len(values))
        if window:
            mean = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(
                steps[window - 1 :], mean, styles[i % 4], color=color, linewidth=1.8, label=name
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _panoptic_regions(panoptic: Panoptic, categories: Categories) -> list[Region]:
    ids = panoptic.ids.numpy()
    seen: dict[int, int] = {}
    drawn = []
    for number, segment in enumerate(panoptic.segments):
        category = categories[segment.label]
        nth = seen[segment.label] = seen.get(segment.label, -1) + 1
        text = f"{category.name} {segment.id}" if category.isthing else category.name
        text += " (crowd)" if segment.iscrowd else ""
        object_number = number if category.isthing else None
        drawn.append(Region(ids == segment.id, segment.label, text, _shade(nth), object_number))
    return [r for r in drawn if r.mask.any()]


def _detection_regions(found: Detections, categories: Categories, scores: bool) -> list[Region]:
    if found.masks is None:
        return []
    drawn = []
    for i, (mask, label) in enumerate(zip(found.masks, found.labels.tolist(), strict=True)):
        text = f"{categories[label].name} {f'{found.scores[i]:.2f}' if scores else i + 1}"
        drawn.append(Region(mask.numpy(), label, text, _shade(i), i))
    return [r for r in reversed(drawn) if r.mask.any()]  # the best score on top


def _enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """``(H, W, ...)`` to ``(scale * H, scale * W, ...)``, each pixel repeated."""
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _shade(nth: int) -> float:
    """Lighter and darker in turn, so that neighbours of one class differ."""
    return (0.0, 0.35, -0.3, 0.18, -0.15)[nth % 5]


def _color(region: Region, categories: Categories, by_object: bool) -> Sequence[float]:
    if by_object and region.number is not None:
        return _object_color(region.number, categories)
    color: Sequence[float] = _shaded(categories[region.label].color, region.shade).tolist()
    return color


def _object_color(number: int, categories: Categories) -> tuple[int, int, int]:
    """The colour of one object; objects that follow one another differ, and none is like stuff."""
    taken = {categories[label].color for label in categories.stuff}
    colors = distinct_colors(number + 1 + len(taken))
    return [color for color in colors if color not in taken][number]


def _shaded(color: tuple[int, int, int], shade: float) -> np.ndarray:
    toward = 255.0 if shade > 0 else 0.0
    return np.array(color, dtype=np.float32) * (1 - abs(shade)) + toward * abs(shade)


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """matplotlib's form of a colour: 0 to 1."""
    return color[0] / 255, color[1] / 255, color[2] / 255


def _outline(mask: np.ndarray) -> np.ndarray:
    """The region's own pixels that touch another region; the image border is no outline."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    return mask & (inner == 0)


def _interior_point(mask: np.ndarray) -> tuple[float, float, float]:
    """The pixel farthest from the region's border, (x, y), and how far that is."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x), float(y), float(distance.max())


def _kind(categories: Categories, label: int) -> str:
    category = categories[label]
    return category.name if category.isthing else f"{category.name} (stuff)"
