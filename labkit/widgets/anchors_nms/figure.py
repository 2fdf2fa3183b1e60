"""Drawing of the figure of the anchor and NMS explorer."""

from __future__ import annotations

import textwrap
from typing import Any

import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from labkit.colors import PETROFF_10
from labkit.widgets.anchors_nms.scene import Scene, fate_text, sentences

BLUE, RED = ([v / 255 for v in PETROFF_10[i]] for i in (0, 2))
DARK_BLUE = [0.75 * v for v in BLUE]  # for letters on white
OF_RATIO = [[v / 255 for v in PETROFF_10[i]] for i in (1, 9, 4, 5, 7)]
STYLES = ("-", "--", "-.", ":")
WIDTH, HEIGHT = 11.0, 7.2  # of the figure, in inches
PLACES = {  # left, bottom, width, height, in inches
    "anchors": (0.15, 3.5, 2.75, 2.75),
    "moved": (0.15, 0.1, 2.75, 2.75),
    "nms": (3.25, 1.35, 4.9, 4.9),
    "table": (8.3, 1.35, 2.6, 4.9),
}


def draw_figure(image: Tensor, shown: Scene) -> Figure:
    """Draw the figure of ``explorer.draw_anchors_nms``."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = {}
    for name, (left, bottom, width, height) in PLACES.items():
        place = (left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT)
        axes[name] = figure.add_axes(place)
        axes[name].set_label(name)
        axes[name].set(xticks=[], yticks=[])
    figure.text(
        0.15 / WIDTH,
        1 - 0.14 / HEIGHT,
        "From anchors to proposals: place, score and move, suppress",
        fontsize=13,
        weight="bold",
        va="top",
    )
    _draw_anchors(axes["anchors"], image, shown)
    _draw_moved(axes["moved"], image, shown)
    _draw_suppression(axes["nms"], image, shown)
    _draw_table(axes["table"], shown)
    # A no-break space: "box" and its number stay on one line.
    texts = [text.replace("box ", "box\N{NO-BREAK SPACE}") for text in sentences(shown)]
    said = "\n".join("\n".join(textwrap.wrap(text, 112)) for text in texts)
    figure.text(3.25 / WIDTH, 1.2 / HEIGHT, said, fontsize=9.5, va="top", linespacing=1.4)
    return figure


def nearest_box(shown: Scene, x: float, y: float) -> int | None:
    """Number of the drawn box whose outline is nearest to a point of "nms"; None if no box is."""
    drawn = [i for i in range(len(shown.boxes)) if _is_drawn(shown, i)]
    if not drawn:
        return None
    point, boxes = torch.tensor([x, y]), shown.boxes[drawn]
    beyond = torch.maximum(boxes[:, :2] - point, point - boxes[:, 2:])  # negative inside
    outside = beyond.clamp(min=0).square().sum(dim=1).sqrt()
    distance = torch.where((beyond < 0).all(dim=1), -beyond.amax(dim=1), outside)
    return drawn[int(distance.argmin())] + 1


def _is_drawn(shown: Scene, index: int) -> bool:
    """Whether a box is drawn, that is, was not suppressed in an earlier step."""
    kind, step, _ = shown.fate(index)
    return kind != "suppressed" or step == shown.done or index + 1 == shown.box


def _draw_anchors(axes: Axes, image: Tensor, shown: Scene) -> None:
    level = shown.level
    rows, columns = level.shape
    _show(axes, image)
    if rows * columns <= 1500:
        axes.plot(*level.centres.T.numpy(), ".", color="white", markersize=2, markeredgewidth=0)
    for color, style, box, _, _, ratio in _of_cell(shown):
        _frame(axes, box, color, style, 1.8)
        _label(axes, *_on_outline(box, _spread(ratio, shown)), f"{ratio:g}", color)
    sizes = " and ".join(f"{size:g}" for size in level.sizes)
    _title(
        axes,
        f"1. Anchors of {level.name}: {level.per_cell} at each of its\n{rows} × {columns} cells "
        f"(dots), size {sizes} pixels.\nOn them: height / width",
    )


def _draw_moved(axes: Axes, image: Tensor, shown: Scene) -> None:
    _show(axes, image)
    drawn = _of_cell(shown)
    for color, style, before, after, score, ratio in drawn:
        _frame(axes, before, color, style, 1.2)
        _frame(axes, after, color, "-", 2)
        _label(axes, *_on_outline(after, _spread(ratio, shown)), f"{score:.2f}", color)
    corners = torch.stack([box for one in drawn for box in (one[2], one[3])])
    low, high = corners[:, :2].amin(dim=0), corners[:, 2:].amax(dim=0)
    (x, y), half = ((low + high) / 2).tolist(), float((high - low).amax()) * 0.65
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
    row, column = shown.cell
    _title(
        axes,
        f"2. The network scores and moves them:\nup close, row {row + 1}, column {column + 1}. "
        "Thin: anchor,\nthick: moved, with its score",
    )


def _draw_suppression(axes: Axes, image: Tensor, shown: Scene) -> None:
    _show(axes, image)
    labels = []
    for index in reversed(range(len(shown.boxes))):  # the best on top
        kind, step, _ = shown.fate(index)
        looked_at = index + 1 == shown.box
        if not _is_drawn(shown, index):
            continue
        color, style, width = {
            "kept": (BLUE, "-", 3.2 if step == shown.done else 2.0),
            "suppressed": (RED, ":", 2.2),
            "waiting": ("white", "-", 1.1),
        }[kind]
        _frame(axes, shown.boxes[index], color, style, width + 1.2 * looked_at)
        labels.append((index, color))
    _draw_overlap(axes, shown)
    for index, color in labels:
        x, y = _on_outline(shown.boxes[index], 0.12 + 0.381966 * index)  # far from its neighbours
        _label(axes, x, y, str(index + 1), color)
    _title(
        axes,
        f"3. Suppression among the level's {len(shown.boxes)} best boxes, "
        f"after step {shown.done} of {len(shown.steps)}.\n"
        "Blue: kept; red, dotted: suppressed in this step; white: waiting",
    )


def _draw_overlap(axes: Axes, shown: Scene) -> None:
    """Hatch the intersection of the chosen box with the box that suppressed it."""
    if shown.box is None:
        return
    kind, step, _ = shown.fate(shown.box - 1)
    if kind != "suppressed" or step is None:
        return
    kept, gone = shown.boxes[shown.steps[step - 1].kept], shown.boxes[shown.box - 1]
    corner, opposite = torch.maximum(kept[:2], gone[:2]), torch.minimum(kept[2:], gone[2:])
    side = (opposite - corner).tolist()
    style: dict[str, Any] = {"facecolor": (1, 1, 1, 0.25), "edgecolor": RED, "hatch": "///"}
    x, y = corner.tolist()
    axes.add_patch(Rectangle((x, y), *side, linewidth=0, **style))


def _draw_table(axes: Axes, shown: Scene) -> None:
    axes.set_axis_off()
    lines = max(len(shown.boxes), 12) + 1
    axes.set(xlim=(0, 1), ylim=(lines, 0))
    _title(axes, "Grey: decided in this step")
    style: dict[str, Any] = {"fontsize": 8.2, "va": "center"}
    for x, name in ((0.12, "box"), (0.3, "score"), (0.36, "so far")):
        axes.text(x, 0.5, name, color="0.35", ha="left" if x == 0.36 else "right", **style)
    for index, score in enumerate(shown.scores.tolist()):
        y = index + 1.5
        kind, step, _ = shown.fate(index)
        color = {"kept": DARK_BLUE, "suppressed": RED, "waiting": "0.35"}[kind]
        now = step is not None and step == shown.done
        if now:  # what the last step decided
            axes.axhspan(index + 1, index + 2, color="0.92", zorder=0)
        if index + 1 == shown.box:
            axes.add_patch(Rectangle((0.005, index + 1.05), 0.99, 0.9, fill=False, linewidth=1.2))
        row = {**style, "color": color, "weight": "bold" if kind == "kept" else "normal"}
        axes.text(0.12, y, str(index + 1), ha="right", **row)
        axes.text(0.3, y, f"{score:.2f}", ha="right", **row)
        axes.text(0.36, y, fate_text(shown, index), **row)


def _of_cell(shown: Scene) -> list[tuple[Any, str, Tensor, Tensor, float, float]]:
    """Yield the drawn anchors of the cell: colour, line, anchor, regressed box, score, ratio."""
    level, part = shown.level, shown.level.of_cell(*shown.cell)
    found = []
    for i, index in enumerate(range(part.start, part.stop)):
        nth = i % len(level.ratios)
        ratio = level.ratios[nth]
        if shown.ratio in (None, ratio):
            color, style = OF_RATIO[nth % len(OF_RATIO)], STYLES[nth % len(STYLES)]
            box, score = level.boxes[index], float(level.scores[index])
            found.append((color, style, level.anchors[index], box, score, ratio))
    return found


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, loc="left")


def _spread(ratio: float, shown: Scene) -> float:
    """Position of an anchor's label on its outline, different for each ratio."""
    ratios = shown.level.ratios
    return 0.1 + 0.9 * ratios.index(ratio) / len(ratios)


def _show(axes: Axes, image: Tensor) -> None:
    height, width = image.shape[1:]
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0))


def _frame(axes: Axes, box: Tensor, color: Any, style: str, width: float) -> None:
    x1, y1, x2, y2 = box.tolist()
    options = {"fill": False, "edgecolor": color, "linestyle": style, "linewidth": width}
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, **options)
    patch.set_path_effects([patheffects.withStroke(linewidth=width + 1.2, foreground="black")])
    axes.add_patch(patch)


def _label(axes: Axes, x: float, y: float, text: str, color: Any) -> None:
    """Draw a label on an outline, moved into the image if the outline leaves it."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    margin = 0.03 * (right - left)
    x, y = min(max(x, margin), right - margin), min(max(y, top + margin), bottom - margin)
    red, green, blue = to_rgb(color)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.6 else "white"
    patch: dict[str, Any] = {"boxstyle": "round,pad=0.18", "facecolor": color, "linewidth": 0.6}
    options: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "color": ink,
        "fontsize": 7,
        "bbox": patch,
    }
    axes.text(x, y, text, **options)


def _on_outline(box: Tensor, t: float) -> tuple[float, float]:
    """Point on a box's outline at the fractional part of t of the outline's length."""
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    way = t % 1 * 2 * (width + height)
    for length, x, y, dx, dy in (
        (width, x1, y1, 1, 0),
        (height, x2, y1, 0, 1),
        (width, x2, y2, -1, 0),
    ):
        if way <= length:
            return x + dx * way, y + dy * way
        way -= length
    return x1, y2 - way
