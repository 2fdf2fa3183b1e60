"""Anchors: reference boxes at every cell of every level.

S. Ren et al., "Faster R-CNN", NIPS 2015, section 3.1. Letters in shapes: ``A`` anchors per cell,
``h × w`` cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Anchors of a cell: boxes around the origin, ``(A, 4)`` with A = sizes × ratios, size by size.

    Notebook 03, section 3.3.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: height / width.
        rounded: to whole pixels, as torchvision does (the original code did so too).
    """
    boxes = []
    for size in sizes:
        for ratio in ratios:
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            boxes.append((-width / 2, -height / 2, width / 2, height / 2))
    anchors = torch.tensor(boxes)
    return anchors.round() if rounded else anchors


def legacy_cell_anchors(size: float, ratios: Sequence[float], stride: int) -> Tensor:
    """Anchors of a cell as in Detectron (2018), ``(A, 4)``: around the centre of the first cell.

    The sides of a box the size of a *cell* are rounded to whole pixels, then enlarged.

    Args:
        size: square root of the area, in pixels.
        ratios: height / width.
        stride: pixels per cell.
    """
    boxes = []
    for ratio in ratios:
        width = round((stride**2 / ratio) ** 0.5)
        height = round(width * ratio)
        half = (width * size / stride / 2, height * size / stride / 2)
        middle = stride / 2
        boxes.append((middle - half[0], middle - half[1], middle + half[0], middle + half[1]))
    return torch.tensor(boxes)


def grid_anchors(cell: Tensor, height: int, width: int, stride: tuple[int, int]) -> Tensor:
    """The anchors of a level, ``(h · w · A, 4)``: row by row, all A of a cell together.

    Notebook 03, section 3.3.

    Args:
        cell: ``(A, 4)`` of :func:`cell_anchors`.
        height, width: cells of the level.
        stride: pixels per cell along y and x; the first cell's anchors are centred on (0, 0).
    """
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride[0]
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)  # (h w, 1, 4)
    return (shifts + cell).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """The anchors ``(h · w · A, 4)`` of every level, see :func:`grid_anchors`.

    Args:
        cells: ``(A, 4)`` for each level.
        shapes: (h, w) of each level.
        strides: pixels per cell along y and x, for each level.
    """
    return [
        grid_anchors(cell, height, width, stride)
        for cell, (height, width), stride in zip(cells, shapes, strides, strict=True)
    ]
