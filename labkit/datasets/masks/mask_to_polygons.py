"""Conversion of a mask to polygons, or to a run-length code if polygons are not exact enough.

Source: https://cocodataset.org/#format-data, "Object Detection": ``segmentation`` is a list of
polygons or a run-length code. A polygon cannot have a hole, and pycocotools rounds its corners when
filling it, so that thin regions become too thin or too thick. Therefore the filled polygons are
compared with the mask.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

AGREEMENT = 0.99
"""Smallest accepted IoU of the filled polygons with the mask."""


def mask_to_segmentation(
    mask: NDArray[np.bool_], polygons: bool
) -> list[list[float]] | dict[str, Any]:
    """Make the ``segmentation`` of an annotation from a mask.

    Args:
        mask: ``(H, W)``.
        polygons: try polygons first.

    Returns:
        Polygons ``[x1, y1, x2, y2, ...]``, or ``{"size": [H, W], "counts": ...}``.
    """
    if polygons:
        found = mask_to_polygons(mask)
        if found and _agreement(found, mask) >= AGREEMENT:
            return found
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def mask_to_polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Trace the outlines of a mask's parts, a quarter of a pixel inside; holes are lost."""
    # OpenCV's outline runs through the middles of the border pixels. At twice the size these are a
    # quarter of a pixel inside the edges, near enough for COCO's program to give the mask back.
    large = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for outline in outlines:
        corners = (outline[:, 0].astype(np.float64) + 0.5) / 2  # (n, 2) x before y
        if len(corners) >= 3:
            found.append(corners.ravel().tolist())
    return found


def _agreement(polygons: list[list[float]], mask: NDArray[np.bool_]) -> float:
    """IoU of the filled polygons with the mask."""
    height, width = mask.shape
    filled = coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    ).astype(bool)
    return float((filled & mask).sum() / max((filled | mask).sum(), 1))
