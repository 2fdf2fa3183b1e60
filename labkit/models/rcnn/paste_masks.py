"""From the small square mask of a box to the pixels of the image.

Letters in shapes: ``n`` detections, ``m`` side of a mask, ``H × W`` the image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample each mask at the pixel centres of the image; inside from one half on.

    Only the window around the box is computed: outside the box the mask is 0.

    Args:
        masks: ``(n, m, m)`` probabilities; a mask covers its box.
        boxes: ``(n, 4)``, in pixels of the image.
        size: (H, W).

    Returns:
        ``(n, H, W)`` bool.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    # One cell around the box: its border lies on pixel edges, and a sample blends two cells.
    low = (boxes[:, :2].floor() - 1).clamp(min=0).long().tolist()
    high = (boxes[:, 2:].ceil() + 1).long().tolist()
    for image, mask, box, (left, top), (right, bottom) in zip(
        pasted, masks, boxes, low, high, strict=True
    ):
        right, bottom = min(right, width), min(bottom, height)
        x = _to_mask(torch.arange(left, right, device=box.device) + 0.5, box[0], box[2])
        y = _to_mask(torch.arange(top, bottom, device=box.device) + 0.5, box[1], box[3])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2) x before y
        window = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        image[top:bottom, left:right] = window >= 0.5
    return pasted


def _to_mask(centres: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pixel centres in the mask's own coordinates: -1 at one side of the box, 1 at the other."""
    return (centres - low) / (high - low) * 2 - 1


def paste_masks_resized(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """As torchvision does: the mask with a border of 0, resized to the box in whole pixels.

    Arguments and result are those of :func:`paste_masks`; inside is *above* one half.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    side = masks.shape[-1]
    grown = (side + 2) / side
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grown
    whole = torch.cat([centre - half, centre + half], dim=1).to(torch.int64).tolist()
    padded = F.pad(masks, (1, 1, 1, 1))
    for image, mask, (x1, y1, x2, y2) in zip(pasted, padded, whole, strict=True):
        shape = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        large = F.interpolate(mask[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
        top, left = max(y1, 0), max(x1, 0)
        bottom, right = min(y2 + 1, height), min(x2 + 1, width)
        image[top:bottom, left:right] = large[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
    return pasted
