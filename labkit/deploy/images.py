"""Pixels: an image as a network takes it, maps resized, masks pasted.

Interpolation is PyTorch's: the centre of cell ``[i, j]`` is ``(i + 0.5, j + 0.5)``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from labkit.deploy.result import Array, Size, Sizes


def preprocess(image: Array, options: dict[str, Any]) -> tuple[Array, Sizes]:
    """Resize, normalise and pad an image ``(H, W, 3)`` uint8 RGB to ``(1, 3, H', W')`` float32."""
    height, width = image.shape[:2]
    pixels, scale = resize(image, options)
    rows, columns = pixels.shape[:2]
    mean, std = np.float32(options["mean"]), np.float32(options["std"])
    divisor = options["size_divisor"]
    padded = (math.ceil(rows / divisor) * divisor, math.ceil(columns / divisor) * divisor)
    batch = np.zeros((*padded, 3), np.float32)
    if options["pad_black"]:
        batch -= mean / std
    batch[:rows, :columns] = (pixels.astype(np.float32) - mean) / std
    channels = batch[..., ::-1] if options["bgr"] else batch
    scales = (scale, scale) if scale else (rows / height, columns / width)
    sizes = Sizes((height, width), (rows, columns), padded, scales)
    return np.ascontiguousarray(channels.transpose(2, 0, 1)[None]), sizes


def resize(image: Array, options: dict[str, Any]) -> tuple[Array, float | None]:
    """An image ``(h, w, 3)`` of the size that the weights expect; the scale where it is exact."""
    height, width = image.shape[:2]
    target, limit = options["min_size"], options["max_size"]
    short, long = min(height, width), max(height, width)
    kind = options["resize"]
    if kind is None:
        return image, None
    if kind == "opencv":
        scale = target / short
        scale = max(limit / long if round(scale * long) > limit else scale, 1 / short)
        size = (round(height * scale), round(width * scale))
        return interpolate(image, size, (0, 1), 1 / scale), scale
    if kind == "float":
        scale = min(target / short, limit / long)
        return interpolate(image, (int(height * scale), int(width * scale)), (0, 1)), None
    if kind == "pillow_square":
        size = (max(round(height * limit / long), 1), max(round(width * limit / long), 1))
    elif kind == "pillow_floor":
        if long / short * target > limit:
            target = max(round(limit * short / long), 1)
        size = (target * height // short, target * width // short)
    else:
        sides = [side * target / short for side in (height, width)]
        if max(sides) > limit:
            sides = [side * limit / max(sides) for side in sides]
        size = (max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1))
    if size == (height, width):
        return image, None
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)), None


def interpolate(x: Array, size: Size, axes: Size = (-2, -1), ratio: float | None = None) -> Array:
    """Resize bilinearly; ``ratio``, cells per new cell, follows from the sizes if not given."""
    for axis, side in ((axes[1], size[1]), (axes[0], size[0])):
        cells_per_cell = np.float32(ratio or x.shape[axis] / side)
        cells = (np.arange(side, dtype=np.float32) + 0.5) * cells_per_cell - 0.5
        x = sample(x, cells, axis)
    return x


def at_input_size(logits: Array, sizes: Sizes) -> Array:
    """Logits ``(N, h, w)`` in pixels of the resized image, without the padding."""
    return interpolate(logits, sizes.padded)[:, : sizes.input[0], : sizes.input[1]]


def sample(x: Array, cells: Array, axis: int) -> Array:
    """Interpolate along an axis at places in cells; the border's value holds outside."""
    last = x.shape[axis] - 1
    cells = cells.clip(0, last)
    low = cells.astype(np.int64)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    share = (cells - low).astype(np.float32).reshape(shape)
    high = np.minimum(low + 1, last)
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def nearest(x: Array, size: Size) -> Array:
    """Resize maps ``(..., h, w)`` by taking the nearest pixel."""
    rows, columns = (
        np.minimum((np.arange(n) * np.float32(old / n)).astype(np.int64), old - 1)
        for n, old in zip(size, x.shape[-2:], strict=True)
    )
    return x[..., rows[:, None], columns]


def paste(masks: Array, boxes: Array, size: Size) -> Array:
    """Paste probabilities ``(n, m, m)`` into boxes: sampled at pixel centres, at least one half."""
    pasted = np.zeros((len(masks), *size), bool)
    for image, mask, (x1, y1, x2, y2) in zip(
        pasted, np.pad(masks, ((0, 0), (1, 1), (1, 1))), boxes, strict=True
    ):
        left, top = max(math.floor(x1) - 1, 0), max(math.floor(y1) - 1, 0)
        right, bottom = min(math.ceil(x2) + 1, size[1]), min(math.ceil(y2) + 1, size[0])
        side = masks.shape[-1]
        columns = _to_mask(np.arange(left, right), x1, x2, side)
        rows = _to_mask(np.arange(top, bottom), y1, y2, side)
        image[top:bottom, left:right] = sample(sample(mask, columns, 1), rows, 0) >= 0.5
    return pasted


def _to_mask(pixels: Array, low: np.float32, high: np.float32, side: int) -> Array:
    """Pixels in cells of a mask with a border of one cell."""
    from_minus_one = (pixels.astype(np.float32) + 0.5 - low) / (high - low) * 2 - 1
    return ((from_minus_one + 1) * side - 1) / 2 + 1


def paste_by_resizing(masks: Array, boxes: Array, size: Size) -> Array:
    """Paste as torchvision does: with a border of 0, resized to whole pixels, above one half."""
    pasted = np.zeros((len(masks), *size), bool)
    side = masks.shape[-1]
    centre, half = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5
    half = half * np.float32((side + 2) / side)
    whole = np.concatenate([centre - half, centre + half], axis=1).astype(np.int64).tolist()
    for image, mask, (x1, y1, x2, y2) in zip(
        pasted, np.pad(masks, ((0, 0), (1, 1), (1, 1))), whole, strict=True
    ):
        large = interpolate(mask, (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)))
        left, top = max(x1, 0), max(y1, 0)
        right, bottom = min(x2 + 1, size[1]), min(y2 + 1, size[0])
        image[top:bottom, left:right] = large[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
    return pasted
