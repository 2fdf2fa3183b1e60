"""RoIPool: the maximum in each bin of a region whose corners are rounded to whole cells.

Two roundings misalign the region: of its corners to cells of the map, and of its bins' edges to
cells of the region.

Letters in shapes: ``N × C × H × W`` the feature map, ``K`` regions, ``ph × pw`` bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.roi_arguments import Boxes, check_rois


def roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool each region to a grid: the maximum over the cells of each bin.

    R. Girshick, "Fast R-CNN", ICCV 2015, section 2.1. Notebook 02, section 2.2.

    Gradients go to the feature map, from each bin to the cell that it took (the first one where
    several are equal). Boxes have no gradient: they were rounded.

    Args:
        input: ``(N, C, H, W)`` floating point.
        boxes: ``(K, 5)`` rows (index in the batch, x1, y1, x2, y2), or N tensors ``(K_i, 4)``, XYXY
            in pixels of the image.
        output_size: ``(ph, pw)``, or one number for both.
        spatial_scale: cells of the map per pixel of the image, such as 1/16.

    Returns:
        ``(K, C, ph, pw)``, 0 in bins that lie outside the map. Equal to torchvision's ``roi_pool``.

    Raises:
        LabkitError: an argument of the wrong type, rank or range.
    """
    rois, (ph, pw) = check_rois(input, boxes, output_size, spatial_scale, name="roi_pool")
    channels, height, width = input.shape[1:]
    image = rois[:, 0].long()  # (K,)
    x1, y1, x2, y2 = whole_cells(rois[:, 1:], spatial_scale).unbind(dim=1)
    top, rows = _bins(y1, y2, ph, height)  # (K, ph) each
    left, columns = _bins(x1, x2, pw, width)  # (K, pw) each

    # Which cell is the largest is found without autograd; then one gather carries the gradient.
    cells = input.permute(0, 2, 3, 1).flatten(1, 2)  # (N, HW, C)
    first = top.clamp(max=height - 1)[:, :, None] * width + left.clamp(max=width - 1)[:, None, :]
    winner = first[..., None].expand(-1, -1, -1, channels)  # (K, ph, pw, C) index of a cell
    with torch.no_grad():
        best = cells[image[:, None, None], first]  # (K, ph, pw, C)
        for dy in range(_largest(rows)):
            for dx in range(_largest(columns)):
                # A bin with fewer cells looks at its last one again, which changes nothing.
                down, right = (rows - 1).clamp(0, dy), (columns - 1).clamp(0, dx)
                here = first + down[:, :, None] * width + right[:, None, :]  # (K, ph, pw)
                value = cells[image[:, None, None], here]
                larger = value > best
                best = torch.where(larger, value, best)
                winner = torch.where(larger, here[..., None], winner)
    channel = torch.arange(channels, device=input.device)
    pooled = cells[image[:, None, None, None], winner, channel]  # (K, ph, pw, C)
    size = rows[:, :, None] * columns[:, None, :]  # (K, ph, pw) cells in each bin
    return torch.where(size[..., None] > 0, pooled, 0).permute(0, 3, 1, 2)


def whole_cells(boxes: Tensor, spatial_scale: float) -> Tensor:
    """Round each box to its first and last cell on the map.

    Args:
        boxes: ``(K, 4)`` XYXY in pixels.
        spatial_scale: cells per pixel.

    Returns:
        ``(K, 4)`` whole numbers, both corners inclusive. Halves are rounded away from zero, as C's
        ``round`` does and ``torch.round`` does not. A last cell before the first becomes the first.
    """
    scaled = boxes * spatial_scale
    down = scaled.trunc()
    rounded = down + scaled.sign() * ((scaled - down).abs() >= 0.5)
    first, last = rounded[:, :2], rounded[:, 2:]
    return torch.cat([first, torch.maximum(first, last)], dim=1)


def _bins(first: Tensor, last: Tensor, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Compute the bins of one axis: first cell and number of cells, ``(K, count)`` int64 each.

    Every bin's edges are rounded outwards, so that neighbouring bins may share a cell. What lies
    outside the map is cut off; a bin without a cell is left with the number 0.
    """
    side = ((last - first + 1) / count)[:, None]  # (K, 1)
    i = torch.arange(count, device=first.device, dtype=first.dtype)
    begin = (first[:, None] + (i * side).floor()).clamp(0, length).long()  # (K, count)
    end = (first[:, None] + ((i + 1) * side).ceil()).clamp(0, length).long()  # (K, count)
    return begin, end - begin


def _largest(numbers: Tensor) -> int:
    return int(numbers.max()) if numbers.numel() else 0
