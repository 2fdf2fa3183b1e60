"""Boxes ``(..., 4)`` XYXY: anchors, decoding, clipping, non-maximum suppression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from labkit.deploy.result import Array, Size

MAX_LOG_SCALE = math.log(1000 / 16)


def grid_anchors(cell: Array, grid: Size, stride: Size) -> Array:
    """Anchors ``(h · w · A, 4)`` of a level from those of a cell ``(A, 4)``."""
    rows, columns = (np.arange(n, dtype=np.float32) * s for n, s in zip(grid, stride, strict=True))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return (np.stack([x, y, x, y], axis=-1)[:, :, None] + cell).reshape(-1, 4)


def decode(deltas: Array, references: Array, weights: Sequence[float]) -> Array:
    """Apply deltas ``(N, C, 4)`` to boxes ``(N, 4)``."""
    size = references[:, None, 2:] - references[:, None, :2]
    centre = references[:, None, :2] + 0.5 * size
    deltas = deltas / np.array(weights, np.float32)
    centre = deltas[..., :2] * size + centre
    size = np.exp(np.minimum(deltas[..., 2:], np.float32(MAX_LOG_SCALE))) * size
    return np.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def clip(boxes: Array, size: Size, plus_one: bool = False) -> Array:
    """Clip to an image; ``plus_one``: boxes from pixel to pixel keep at least one pixel."""
    limit = np.array([size[1], size[0]], np.float32)
    low, high = boxes[..., :2].clip(0, limit), boxes[..., 2:].clip(0, limit)
    if plus_one:
        low, high = np.minimum(low, limit - 1), np.maximum(high, 1)
    return np.concatenate([low, high], axis=-1)


def larger_than(boxes: Array, side: float) -> Array:
    """``(N,)`` bool: both sides are longer."""
    return np.all(boxes[:, 2:] - boxes[:, :2] > side, axis=1)


def scale(boxes: Array, y: float, x: float) -> Array:
    """Multiply coordinates along y and along x."""
    return boxes * np.array([x, y, x, y], np.float32)


def nms(boxes: Array, scores: Array, groups: Array, threshold: float) -> Array:
    """Indices of the boxes that no better box of their group overlaps, highest score first."""
    if 0 < boxes.size <= 4000:  # rounded as in torchvision, which moves the groups apart
        boxes = boxes + groups[:, None].astype(np.float32) * (boxes.max() + 1)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, keep = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = (np.minimum(boxes[best, 2:], boxes[order, 2:]) - low).clip(0)
        overlap = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # of two boxes without area, neither is suppressed
            suppressed = overlap / (areas[best] + areas[order] - overlap) > np.float64(threshold)
        order = order[~suppressed | (groups[order] != groups[best])]
    return np.array(keep, np.int64)
