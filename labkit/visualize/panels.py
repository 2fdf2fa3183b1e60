"""Panels: images side by side with their overlays, titles and one legend."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from torch import Tensor

from labkit.colors import to_matplotlib
from labkit.structures import Categories
from labkit.visualize.overlay import draw
from labkit.visualize.regions import Annotation, regions


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
    """Draw images side by side with titles and one legend of the classes that occur.

    Args:
        items: (title, image ``(3, H, W)`` uint8, what to draw over it) for each panel.
        categories: names and colours.
        columns: panels in a row.
        names: whether to write each region's name on it.
        size: width of a panel in inches.
        by_object: color each object, not each class; stuff and the classes of a semantic map
            keep their class's colour.
        scores: whether detections' names include their scores; ground truth has none.
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
    """Add one legend under the figure: each class with its colour.

    Args:
        figure: the figure that gets the legend.
        categories: names and colours.
        labels: the classes that occur.
        by_object: the classes among them whose objects are coloured one by one. Such a class has
            no colour, so the legend's title names it, without a patch.
    """
    patches = [
        Patch(
            facecolor=to_matplotlib(categories[v].color or (0, 0, 0)),
            edgecolor="0.3",
            label=_legend_text(categories, v),
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


def _legend_text(categories: Categories, label: int) -> str:
    category = categories[label]
    return category.name if category.isthing else f"{category.name} (stuff)"
