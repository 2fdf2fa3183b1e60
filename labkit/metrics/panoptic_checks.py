"""Refusal of panoptic maps that do not fit each other, or the list of their segments.

As :mod:`labkit.metrics.panoptic_matching`, it imports NumPy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco.panoptic_png import check_segments
from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import (
    VOID,
    Overlaps,
    SegmentTable,
    find_overlaps,
    same_category,
)

AREA_SLACK = (2, 0.01)
"""Tolerance of an area in a file: pixels, or a share of the pixels in the map."""


def checked_overlaps(
    gt_map: NDArray[np.int32],
    pred_map: NDArray[np.int32],
    gt: SegmentTable,
    pred: SegmentTable,
    where: tuple[str, str],
    names: tuple[str, str],
) -> Overlaps:
    """The overlaps of two maps ``(H, W)`` that fit.

    Args:
        gt_map, pred_map: ids.
        gt, pred: the segments.
        where: names of the ground-truth and the predicted map in messages.
        names: names of map and list in messages, see :func:`check_segments`.

    Raises:
        LabkitError: the maps differ in size, a map and its list have different ids, or an area in
            the file differs from the map.
    """
    if gt_map.shape != pred_map.shape:
        size, expected = pred_map.shape, gt_map.shape
        raise LabkitError(
            f"{where[1]}: is {size[0]} x {size[1]} pixels (height x width), its ground truth"
            f" {where[0]} is {expected[0]} x {expected[1]}"
        )
    overlaps = find_overlaps(gt_map, pred_map, gt, pred)
    _check_ids(overlaps.gt_ids, overlaps.gt, gt.ids, where[0], names)
    _check_ids(overlaps.pred_ids, overlaps.pred, pred.ids, where[1], names)
    if gt.areas is not None:
        _check_areas(overlaps, gt, pred, gt.areas, where[0])
    return overlaps


def _check_ids(
    values: NDArray[np.int32],
    indices: NDArray[np.intp],
    ids: NDArray[np.int32],
    where: str,
    names: tuple[str, str],
) -> None:
    """Refuse a map whose values are not the ids of its list; void need not be listed."""
    unlisted = (indices == ids.size) & (values != VOID)
    absent = np.bincount(indices, minlength=ids.size + 1)[: ids.size] == 0
    if unlisted.any() or absent.any():
        check_segments(ids.tolist(), np.unique(values).tolist(), where, names)


def _check_areas(
    overlaps: Overlaps,
    gt: SegmentTable,
    pred: SegmentTable,
    stated: NDArray[np.float64],
    where: str,
) -> None:
    """Refuse areas that differ from the map, because IoU and PQ would be wrong.

    Like panopticapi, the evaluation divides by the areas in the file; a difference of a pixel or
    two is allowed.
    """
    counted = np.bincount(overlaps.gt, overlaps.areas, gt.ids.size + 1)[: gt.ids.size]
    wrong = np.abs(stated - counted) > np.maximum(AREA_SLACK[0], AREA_SLACK[1] * counted)
    if wrong.any():
        k = int(wrong.argmax())
        raise LabkitError(
            f'{where}: the "area" of segment {gt.ids[k]} is {stated[k]:g}, in the PNG it has'
            f" {int(counted[k])} pixels ({int(wrong.sum())} of {gt.ids.size} areas of this image"
            " are wrong); write the number of pixels"
        )
    # An intersection larger than a segment; only of pairs whose IoU is computed.
    too_small = overlaps.areas > np.append(stated, np.inf)[overlaps.gt]
    too_small &= same_category(overlaps, gt, pred) & ~np.append(gt.iscrowd, False)[overlaps.gt]
    if too_small.any():
        first = overlaps.gt_ids[too_small][0]
        raise LabkitError(f'{where}: the "area" of segment {first} is less than its pixels')
