"""From anchors to proposals, step by step: the headless twin of the explorer.

One figure: the anchors of a cell, where the network moves them, and non-maximum suppression of a
level's best boxes, which names for each suppressed box the one responsible. The steps are those of
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
        levels: of :func:`labkit.widgets.anchors_nms.pyramid_levels.rpn_levels` on that image.
        level: name of the level to look at; the first by default.
        ratio: draw the anchors of this ratio alone.
        cell: (row, column) whose anchors are drawn; by default that of ``box``, or of the best box.
        count: boxes of the level that suppression begins with, at most ``MOST_BOXES``.
        threshold: IoU above which it suppresses; the network's own by default.
        done: steps taken, from 0 to as many as there are; one by default.
        box: number of a box to look at, from 1 (the best score).

    Returns:
        A figure with axes labelled "anchors", "moved", "nms" and "table".

    Raises:
        LabkitError: a level, ratio, cell, step or box that is not there.
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
