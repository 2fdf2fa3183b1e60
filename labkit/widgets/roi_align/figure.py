"""Drawing of the figure of the RoIAlign explorer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from labkit.colors import PETROFF_10
from labkit.widgets.roi_align.operator_samples import OPERATORS, OperatorSamples, Sample

COLORS = {
    name: tuple(v / 255 for v in PETROFF_10[i])
    for name, i in zip(OPERATORS, (2, 6, 0), strict=True)
}
WIDTH, HEIGHT = 11.0, 7.75  # of the figure, in inches
COLUMN, GAP, LEFT = 2.5, 0.22, 0.2
ROWS = {"map": 4.75, "output": 3.0, "bin": 1.12}  # lower edges, in inches
SIDES = {"map": 2.2, "output": 1.4, "bin": 1.75}
TITLES = {
    "RoIPool": "rounds box and bins to cells,\ntakes the largest value",
    "RoIWarp": "rounds the box to cells,\ninterpolates in it",
    "RoIAlign": "rounds nothing,\ninterpolates in the box itself",
}


def draw_operators(
    features: Tensor,
    box: Sequence[float],
    readings: Mapping[str, OperatorSamples],
    sums: Sequence[str],
    image: Tensor | None,
) -> Figure:
    """Draw the figure of ``explorer.draw_roi_align`` from the operators' samples."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    cells = features.detach().cpu().double().numpy()
    _explanations(figure, readings, image is not None)
    if image is not None:
        _draw_image(_axes(figure, 0, "map", "image"), image, box, cells.shape)
    window = _window(readings.values(), cells.shape)
    shades = {"cmap": "viridis", "vmin": cells.min(), "vmax": cells.max()}
    for i, (name, reading) in enumerate(readings.items(), start=1):
        _draw_map(_axes(figure, i, "map", name), cells, box, reading, shades)
        _draw_output(_axes(figure, i, "output", name), reading, shades)
        _draw_bin(_axes(figure, i, "bin", name), cells, box, reading, window)
    figure.text(
        LEFT / WIDTH,
        1.02 / HEIGHT,
        "\n".join(sums),
        fontsize=7.3,
        family="monospace",
        va="top",
        linespacing=1.35,
    )
    return figure


def _axes(figure: Figure, column: int, row: str, name: str) -> Axes:
    side = SIDES[row]
    left = LEFT + column * (COLUMN + GAP) + (COLUMN - side) / 2 * (column > 0)
    axes = figure.add_axes((left / WIDTH, ROWS[row] / HEIGHT, side / WIDTH, side / HEIGHT))
    axes.set_label(name if column == 0 else f"{name} {row}")
    axes.set(xticks=[], yticks=[])
    return axes


def _explanations(
    figure: Figure, readings: Mapping[str, OperatorSamples], with_image: bool
) -> None:
    align = readings["RoIAlign"]
    bins = len(align.output)
    row, column = align.selected
    where = f"row {row + 1}, column {column + 1}"
    figure.text(
        LEFT / WIDTH,
        1 - 0.14 / HEIGHT,
        "One box, three ways to read it from a feature map",
        fontsize=13,
        weight="bold",
        va="top",
    )
    texts = {
        ROWS["map"] - 0.1: """
dashed: the box
coloured: what is read in its place
black: one bin, and its points""",
        ROWS["output"] + SIDES["output"] - 0.33: f"""
What they return: {bins} × {bins} bins,
whatever the size of the box.

Framed: the bin in {where}.
The numbers differ, because the
regions above do.""",
        ROWS["bin"] + SIDES["bin"]: """
That bin up close: the value of each
cell, and × its weight in the bin. The
stronger the colour, the more it
counts. White dots are the points
where the map is interpolated.
Below, the same as sums of
weight·value. Positions are in cells
from the upper left corner.""",
    }
    if not with_image:
        texts[ROWS["map"] + SIDES["map"]] = """
The feature map, brighter where
its values are larger."""
    for top, text in texts.items():
        style: dict[str, Any] = {"fontsize": 9, "va": "top", "linespacing": 1.3}
        figure.text(LEFT / WIDTH, top / HEIGHT, text.strip(), **style)


def _draw_image(axes: Axes, image: Tensor, box: Sequence[float], shape: tuple[int, ...]) -> None:
    height, width = shape
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), extent=(0, width, height, 0))
    _frame(axes, box, "white", "--", 1.6)
    axes.set_title("the image", fontsize=9, loc="left")


def _draw_map(
    axes: Axes,
    cells: np.ndarray,
    box: Sequence[float],
    reading: OperatorSamples,
    shades: dict[str, Any],
) -> None:
    height, width = cells.shape
    color = COLORS[reading.operator]
    axes.imshow(cells, extent=(0, width, height, 0), **shades)
    if max(height, width) <= 40:
        axes.vlines(range(1, width), 0, height, color="white", linewidth=0.3, alpha=0.4)
        axes.hlines(range(1, height), 0, width, color="white", linewidth=0.3, alpha=0.4)
    x1, y1, x2, y2 = reading.region
    if reading.samples:  # RoIPool's bins overlap: lines between them would not be true
        for i in range(1, len(reading.output)):
            t = i / len(reading.output)
            axes.plot([x1 + t * (x2 - x1)] * 2, [y1, y2], color="white", linewidth=0.7)
            axes.plot([x1, x2], [y1 + t * (y2 - y1)] * 2, color="white", linewidth=0.7)
    _frame(axes, reading.region, color, "-", 3)
    if reading.region != tuple(box):
        _frame(axes, box, "white", "--", 1.2)
    _frame(axes, reading.bin, "black", "-", 1.2)
    axes.plot(*_points(reading.samples), "o", color="white", markersize=2.2, markeredgewidth=0)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_title(
        f"{reading.operator} {TITLES[reading.operator]}",
        fontsize=9,
        color=[0.75 * v for v in color],  # darker, for letters on white
        weight="bold",
    )


def _draw_output(axes: Axes, reading: OperatorSamples, shades: dict[str, Any]) -> None:
    bins = len(reading.output)
    axes.imshow(reading.output, **shades)
    size = min(9.0, 72 * SIDES["output"] / bins / 2.7)
    middle = (shades["vmin"] + shades["vmax"]) / 2
    for (row, column), value in np.ndenumerate(reading.output):
        shade = "black" if value > middle else "white"
        options: dict[str, Any] = {"ha": "center", "va": "center", "color": shade, "fontsize": size}
        axes.text(column, row, format_cell(value), **options)
    row, column = reading.selected
    _frame(axes, (column - 0.5, row - 0.5, column + 0.5, row + 0.5), "black", "-", 2)
    axes.set_title(f"{reading.operator} → {format_cell(reading.value)}", fontsize=10)


def _draw_bin(
    axes: Axes,
    cells: np.ndarray,
    box: Sequence[float],
    reading: OperatorSamples,
    window: tuple[int, int, int, int],
) -> None:
    left, top, right, bottom = window
    color = COLORS[reading.operator]
    points = 72 * SIDES["bin"] / max(right - left, bottom - top)  # a cell's side
    size = min(8.0, points / 4.2)
    most = max(reading.weights.max(), 1e-12)
    for row in range(top, bottom):
        for column in range(left, right):
            weight = reading.weights[row, column]
            axes.add_patch(
                Rectangle(
                    (column, row),
                    1,
                    1,
                    facecolor=(*color, 0.75 * weight / most),
                    edgecolor="0.6",
                    linewidth=0.6,
                )
            )
            if size < 4:
                continue  # a page of such numbers says nothing
            shade = "black" if weight > 0 else "0.55"
            options: dict[str, Any] = {"fontsize": size, "color": shade, "zorder": 4}
            axes.text(
                column + 0.06, row + 0.06, format_cell(cells[row, column]), va="top", **options
            )
            if weight >= 0.005:
                text = f"×{weight:.2f}"
                axes.text(column + 0.95, row + 0.94, text, ha="right", va="bottom", **options)
    _frame(axes, box, "0.35", "--", 1.2, halo=False)
    _frame(axes, reading.bin, "black", "-", 1.6, halo=False)
    numbered = len(reading.samples) <= 4
    style: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markeredgewidth": 0.8}
    axes.plot(*_points(reading.samples), "o", markersize=8 if numbered else 4, **style)
    if numbered:
        for i, sample in enumerate(reading.samples, start=1):
            place: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 5}
            axes.text(sample.x, sample.y, str(i), fontsize=6, **place)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def _frame(
    axes: Axes,
    box: Sequence[float],
    color: object,
    style: str,
    width: float,
    *,
    halo: bool = True,
) -> None:
    x1, y1, x2, y2 = box
    patch = Rectangle(
        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linestyle=style, linewidth=width
    )
    if halo:
        contrast = "white" if color == "black" else "black"
        patch.set_path_effects([patheffects.withStroke(linewidth=width + 1.4, foreground=contrast)])
    axes.add_patch(patch)


def _points(samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    return [s.x for s in samples], [s.y for s in samples]


def _window(
    readings: Iterable[OperatorSamples], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Visible cells ``left, top, right, bottom``, the same for all three operators."""
    corners = []
    for reading in readings:
        x1, y1, x2, y2 = reading.bin
        if reading.samples or x2 > x1:
            corners.append((np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)))
        rows, columns = np.nonzero(reading.weights)
        if len(rows):
            corners.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    low, high = np.min(corners, axis=0)[:2], np.max(corners, axis=0)[2:]
    limit = np.array(shape[::-1])
    low = low.clip(0, limit - 1)
    high = np.maximum(high.clip(0, limit), low + 1)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def format_cell(value: float) -> str:
    """Format a value for a cell."""
    return f"{value:.2f}" if abs(value) < 99.95 else f"{value:.0f}"
