"""Conversion of an annotation's ``segmentation`` to a run-length code (RLE), with strict checks.

pycocotools draws the pixels. It does not check its input: a polygon corner far outside the image,
or runs that do not sum to the image's pixels, make it crash or read foreign memory.
"""

from __future__ import annotations

import math
from typing import Any

from pycocotools import mask as coco_mask

from labkit.datasets.json_fields import json_excerpt

LONGEST_OUTLINE = 5_000_000
"""Limit of the pixels along a mask's polygons; pycocotools needs about eighty bytes for each."""


def to_rle(shape: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Convert a segmentation to a compressed run-length code.

    Args:
        shape: polygons ``[[x1, y1, x2, y2, ...], ...]``, or ``{"size": [H, W], "counts": ...}``.
        size: (H, W) of the image.

    Raises:
        ValueError: it is neither, or does not fit the image; the message says what to do.
    """
    if isinstance(shape, list) and shape:
        _check_polygons(shape, size)
        return dict(coco_mask.merge(coco_mask.frPyObjects(shape, *size)))
    if isinstance(shape, dict):
        return _checked_code(shape, size)
    if not shape:
        raise ValueError(
            f"is {json_excerpt(shape)}: the object has a box but no mask. Draw its mask, or"
            " delete it"
        )
    raise ValueError(
        f"is {json_excerpt(shape)}; it must be a list of polygons or a run-length code"
    )


def _check_polygons(shape: list[Any], size: tuple[int, int]) -> None:
    if all(type(value) in (int, float) for value in shape):
        raise ValueError(
            "is one list of numbers; it must be a list of polygons: [[x1, y1, x2, y2, ...]]"
        )
    outline = 0.0
    for number, polygon in enumerate(shape):
        part = f"polygon {number + 1} of {len(shape)} " if len(shape) > 1 else "the polygon "
        if not isinstance(polygon, list):
            raise ValueError(
                f"{part}is {json_excerpt(polygon)}; it must be a list x1, y1, x2, y2, ..."
            )
        if not polygon:
            raise ValueError(f"{part}is empty: no mask. Draw it, or delete the object")
        if (points := _pairs(polygon)) or (len(polygon) == 2 and len(shape) > 2):
            raise ValueError(
                f"{part if points else ''}lists its points as pairs [x, y] or as x and y; it must"
                " be one list of numbers x1, y1, x2, y2, ... in a list of polygons"
            )
        for value in polygon:
            if type(value) not in (int, float):
                raise ValueError(f"{part}has {json_excerpt(value)} where a number must be")
            if not abs(value) <= 10 * max(size):  # nan, too
                raise ValueError(
                    f"{part}has a corner that is not a number or far outside:"
                    f" {json_excerpt(value)}, the image is {size[0]} x {size[1]} pixels"
                )
        if len(polygon) % 2:
            raise ValueError(f"{part}has {len(polygon)} numbers, an odd count: x or y is missing")
        if len(polygon) < 6:
            hint = " (is it a box? a box is not a mask)" if len(polygon) == 4 else ""
            raise ValueError(
                f"{part}has {len(polygon)} numbers{hint}; a polygon needs at least three points,"
                " six numbers"
            )
        outline += _length(polygon)
    if outline > min(LONGEST_OUTLINE, 4 * size[0] * size[1] + 100 * sum(size)):
        raise ValueError(f"the outline is {outline:.0f} pixels long, more than the image has")


def _pairs(polygon: list[Any]) -> bool:
    return all(isinstance(point, list | dict) for point in polygon)


def _length(polygon: list[float]) -> float:
    """Pixels along a polygon in pycocotools: the sum of max(|dx|, |dy|) over its edges."""
    xs, ys = polygon[0::2], polygon[1::2]
    return sum(max(abs(xs[i] - xs[i - 1]), abs(ys[i] - ys[i - 1])) for i in range(len(xs)))


def _checked_code(shape: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    if shape.get("size") != list(size):
        raise ValueError(f"its size is {json_excerpt(shape.get('size'))}, the image's {list(size)}")
    counts = shape.get("counts")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts):
            wrong = next(run for run in counts if type(run) is not int or run < 0)
            raise ValueError(f"counts: {json_excerpt(wrong)} is not a valid run length")
        if sum(counts) != math.prod(size):
            raise ValueError("its run lengths do not add up to the image")
        return dict(coco_mask.frPyObjects(shape, *size))
    if not isinstance(counts, str):
        raise ValueError(f"counts is {json_excerpt(counts)}; it must be a list of runs or a string")
    _require_whole(counts, math.prod(size))
    return {"size": list(size), "counts": counts}


def _require_whole(counts: str, pixels: int) -> None:
    """Refuse a compressed code whose runs do not sum to the image's pixels.

    pycocotools fills the pixels after a short code with uninitialised memory. Each run is written
    in characters of five bits, low bits first; a sixth bit means that another character follows.
    From the fourth run on, the code holds the difference to the run before the previous one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode(errors="replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:  # runs are of 32 bits
            shift = 1
            break
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or sum(runs) != pixels or min(runs) < 0:
        raise ValueError("its run lengths do not add up to the image; the code is damaged")
