"""Images and boxes in the coordinates of boxes: pixel ``(r, c)`` covers ``[c, c+1] × [r, r+1]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.typing import ColorType
from torch import Tensor


def show_image(axes: Axes, image: Tensor, *, margin: float = 0, alpha: float = 1.0) -> None:
    """Show an image ``(3, H, W)`` uint8 without ticks; ``margin`` adds room around it, in pixels.

    The coordinates are those of boxes, not of :func:`matplotlib.pyplot.imshow`, whose pixel
    ``(r, c)`` is centred at ``(c, r)``.
    """
    height, width = image.shape[1:]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", alpha=alpha)
    axes.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin), xticks=[], yticks=[])


def draw_box(
    axes: Axes,
    box: Iterable[Any],
    color: ColorType,
    text: str = "",
    *,
    linewidth: float = 1.6,
    **style: Any,
) -> None:
    """Draw the outline of an XYXY box, with a text at its upper left corner.

    Args:
        axes: axes of :func:`show_image`.
        box: four numbers: x1, y1, x2, y2.
        color: colour of the outline, and of the ground behind the text.
        text: for example a class and a score.
        linewidth: of the outline, in points.
        **style: options of :class:`matplotlib.patches.Rectangle`.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    style = {"fill": False, "edgecolor": color, "linewidth": linewidth, **style}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
    if text:
        axes.text(
            x1,
            y1,
            text,
            color="white",
            fontsize=7,
            va="top" if y1 < 8 else "bottom",  # outside the box, where there is room
            clip_on=True,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
        )
