"""Boxes of masks and box coding: encoding and decoding of regression offsets, clipping.

Boxes are ``(N, 4)`` XYXY in pixels, widths are ``x2 - x1``. IoU and NMS are torchvision's. Half
precision is computed with in float32.

Detectron of 2018, and UPSNet after it, write a box by its first and its last pixel, so that its
width is ``x2 - x1 + 1``. Here such boxes have the last pixel's far edge for ``x2``, one more: then
offsets, IoU and NMS are the plain ones. What is left of the convention is called ``plus_one``: how
boxes are clipped (:func:`clip_boxes`), and that windows are pooled up to the last pixel
(``PoolerConfig``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Limit of the growth of decoded sides, so that an untrained network does not overflow ``exp``."""


def at_least_float32(values: Tensor) -> torch.dtype:
    """Type for computations: float64 for float64 values, float32 for all others.

    Half precision ends at 65504, less than the area of a box of 256 by 256 pixels, and cannot tell
    coordinates beyond 2048 apart.
    """
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def encode_boxes(boxes: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Encode ``boxes`` as regression offsets from ``references``.

    R. Girshick et al., "Rich Feature Hierarchies for Accurate Object Detection and Semantic
    Segmentation", CVPR 2014, appendix C. Notebook 03, section 3.4.

    Args:
        boxes: ``(N, 4)`` what to reach.
        references: ``(N, 4)`` anchors or proposals.
        weights: (x, y, w, h); they bring the offsets to about unit variance.

    Returns:
        ``(N, 4)`` offsets of the centre in sides of the reference, and of the log of the sides.
    """
    wx, wy, ww, wh = weights
    boxes = boxes.to(at_least_float32(boxes))
    x, y, width, height = _centre_form(references)
    to_x, to_y, to_width, to_height = _centre_form(boxes)
    return torch.stack(
        [
            wx * (to_x - x) / width,
            wy * (to_y - y) / height,
            ww * torch.log(to_width / width),
            wh * torch.log(to_height / height),
        ],
        dim=1,
    )


def decode_boxes(offsets: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Apply regression ``offsets`` to ``references``; the inverse of :func:`encode_boxes`.

    R. Girshick et al., "Rich Feature Hierarchies for Accurate Object Detection and Semantic
    Segmentation", CVPR 2014, appendix C. Notebook 03, section 3.4.

    Args:
        offsets: ``(N, 4 C)``, four for each of C classes.
        references: ``(N, 4)``.
        weights: those of the encoding.

    Returns:
        ``(N, 4 C)`` boxes.
    """
    wx, wy, ww, wh = weights
    offsets = offsets.to(at_least_float32(offsets))
    x, y, width, height = (v[:, None] for v in _centre_form(references))
    dx, dy = offsets[:, 0::4] / wx, offsets[:, 1::4] / wy
    dw = torch.clamp(offsets[:, 2::4] / ww, max=MAX_LOG_SCALE)
    dh = torch.clamp(offsets[:, 3::4] / wh, max=MAX_LOG_SCALE)
    x, y = dx * width + x, dy * height + y
    width, height = torch.exp(dw) * width, torch.exp(dh) * height
    corners = (x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height)
    return torch.stack(corners, dim=-1).reshape(offsets.shape)


def clip_boxes(boxes: Tensor, size: tuple[int, int], plus_one: bool = False) -> Tensor:
    """Clip boxes to an image, including its far edges.

    Args:
        boxes: ``(..., 4)``.
        size: (height, width).
        plus_one: boxes go from pixel to pixel, and both are cut to pixels of the image: no side
            becomes shorter than one pixel.

    Returns:
        ``(..., 4)``.
    """
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    if plus_one:
        low = torch.stack((x[..., 0].clamp(max=width - 1), y[..., 0].clamp(max=height - 1)), dim=-1)
        high = torch.stack((x[..., 1].clamp(min=1), y[..., 1].clamp(min=1)), dim=-1)
        return torch.cat((low, high), dim=-1)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def larger_than(boxes: Tensor, side: float) -> Tensor:
    """Mask ``(N,)`` bool of the boxes with both sides longer than ``side``."""
    boxes = boxes.to(at_least_float32(boxes))
    return ((boxes[:, 2:] - boxes[:, :2]) > side).all(dim=1)


def masks_to_edge_boxes(masks: Tensor) -> Tensor:
    """Tight XYXY boxes ``(N, 4)`` float32 of masks ``(N, H, W)`` bool, none of them empty.

    A box ends at the far edges of the mask's last row and column: around one pixel it has the area
    1, and ``x2 - x1`` is the number of columns, as everywhere in labkit. torchvision's
    ``masks_to_boxes`` ends at their *indices*: its boxes are one pixel narrower and one lower, and
    have no area around a single row.
    """
    pixels = masks.view(torch.uint8)  # on bytes amax is many times quicker than any
    columns, rows = pixels.amax(dim=1), pixels.amax(dim=2)  # (N, W), (N, H)
    x1, y1 = columns.argmax(dim=1), rows.argmax(dim=1)  # the first of equals
    x2 = columns.shape[1] - columns.flip(1).argmax(dim=1)
    y2 = rows.shape[1] - rows.flip(1).argmax(dim=1)
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes = boxes.to(at_least_float32(boxes))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height, width, height
