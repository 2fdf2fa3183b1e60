"""From anchors to proposals, step by step: the headless function of the explorer.

One figure with the anchors of a cell, their regressed boxes, and non-maximum suppression of a
level's best boxes, which names the box that suppresses each other box. The steps come from
:func:`labkit.ops.nms.nms_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from labkit.widgets.anchors_nms.figure import draw_figure
from labkit.widgets.anchors_nms.pyramid_levels import PyramidLevel
from labkit.widgets.anchors_nms.scene import scene


def draw_anchors_nms(
    image: Tensor,
    levels: Sequence[PyramidLevel],
    *,
    level: str | None = None,
    ratio: float | None = None,
    cell: tuple[int, int] | None = None,
    count: int = 12,
    threshold: float | None = None,
    done: int | None = None,
    box: int | None = None,
) -> Figure:
    """Draw anchors, proposals and a step of non-maximum suppression.

    Args:
        image: ``(3, H, W)`` uint8.
        levels: the levels of the image, from
            :func:`labkit.widgets.anchors_nms.pyramid_levels.rpn_levels`.
        level: name of the level to show; None for the first.
        ratio: aspect ratio of the anchors to draw; None for all.
        cell: (row, column) whose anchors are drawn; None for the cell of ``box``, or of the best
            box.
        count: boxes before suppression, at most ``MOST_BOXES``.
        threshold: NMS threshold; None for the network's.
        done: completed steps of suppression; None for one.
        box: number of the box to explain, from 1 (the best score); None for none.

    Returns:
        A figure with axes labelled "anchors", "moved", "nms" and "table".

    Raises:
        LabkitError: a level, ratio, cell, step or box does not exist.
    """
    shown = scene(
        levels,
        level=level,
        ratio=ratio,
        cell=cell,
        count=count,
        threshold=threshold,
        done=done,
        box=box,
    )
    return draw_figure(image, shown)
