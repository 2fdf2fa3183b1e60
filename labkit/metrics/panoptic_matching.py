"""Matching the segments of two panoptic maps, and panoptic quality from the matches.

A predicted and a ground-truth segment of one category match if their IoU exceeds 0.5. Segments do
not overlap, so every segment has at most one match. Per category, with the matches TP, the other
predicted segments FP and the other ground-truth segments FN:

    PQ = sum of IoU over TP / (|TP| + |FP| / 2 + |FN| / 2) = SQ * RQ
    SQ = mean IoU over TP,  RQ = |TP| / (|TP| + |FP| / 2 + |FN| / 2)

Void and crowd are treated exactly as in panopticapi, the published evaluation. The module imports
NumPy only, because the evaluation of files would wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco import compiled_maps
from labkit.datasets.coco.panoptic_png import run_starts

VOID = 0
IOU, TP, FP, FN = range(4)  # the columns of a table of counts


class SegmentTable(NamedTuple):
    """The S segments of one image, in the order of their list.

    Attributes:
        ids: ``(S,)`` int32, values in the map.
        labels: ``(S,)`` int64, rows of the categories in the table of counts.
        areas: ``(S,)`` float64, areas in the ground truth's file; None to count pixels.
        iscrowd: ``(S,)`` bool, ground-truth segments of several objects without own masks.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64] | None
    iscrowd: NDArray[np.bool_]


class Overlaps(NamedTuple):
    """The pixels that the values of two maps share, for each of K pairs of values.

    Attributes:
        gt_ids, pred_ids: ``(K,)`` int32 values of the maps; the pairs are in ascending order.
        gt, pred: ``(K,)`` their segments as indices into the tables; the length of the table for
            void, which is in none.
        areas: ``(K,)`` int64, in pixels.
    """

    gt_ids: NDArray[np.int32]
    pred_ids: NDArray[np.int32]
    gt: NDArray[np.intp]
    pred: NDArray[np.intp]
    areas: NDArray[np.int64]


class Matches(NamedTuple):
    """Matches of one image: TP, FP and FN as indices into the two segment tables.

    Attributes:
        gt, pred: ``(M,)``, ground-truth and predicted segment of each match (TP).
        iou: ``(M,)`` float64, above 0.5.
        missed: ``(S,)`` bool, ground-truth segments without a match (FN).
        wrong: ``(P,)`` bool, predicted segments without a match (FP). A segment that is neither
            matched nor wrong lies mostly on void or crowd and is ignored.
        rejected: ``(K, 2)``, pairs of a ground-truth and a predicted segment of one category that
            share pixels without a match.
        rejected_iou: ``(K,)`` float64, at most 0.5.
    """

    gt: NDArray[np.intp]
    pred: NDArray[np.intp]
    iou: NDArray[np.float64]
    missed: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    rejected: NDArray[np.intp]
    rejected_iou: NDArray[np.float64]


def match_segments(overlaps: Overlaps, gt: SegmentTable, pred: SegmentTable) -> Matches:
    """Match the segments of one image.

    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Notebook 06, section 6.2.

    Args:
        overlaps: of the two maps, see
            :func:`labkit.metrics.panoptic_checks.checked_overlaps`.
        gt: S ground-truth segments; id 0 is void and not among them.
        pred: P predicted segments; id 0 may be one of them.
    """
    num_gt, num_pred = gt.ids.size, pred.ids.size
    gt_areas = np.bincount(overlaps.gt, overlaps.areas, num_gt + 1)  # void last, here and below
    if gt.areas is not None:
        gt_areas[:num_gt] = gt.areas
    pred_areas = np.bincount(overlaps.pred, overlaps.areas, num_pred + 1)
    on_void, on_crowd = pixels_on_void(overlaps, gt, pred), pixels_on_crowd(overlaps, gt, pred)

    comparable = same_category(overlaps, gt, pred) & ~np.append(gt.iscrowd, False)[overlaps.gt]
    i, j = overlaps.gt[comparable], overlaps.pred[comparable]
    intersection = overlaps.areas[comparable]
    # Void counts neither for nor against a prediction.
    union = pred_areas[j] + gt_areas[i] - intersection - on_void[j]
    iou = intersection / union
    matched = iou > 0.5  # at most one pair of a segment: segments of a map do not overlap

    missed = ~_marked(i[matched], num_gt) & ~gt.iscrowd
    # A prediction without a match is ignored if more than half of it lies on void or crowd.
    excused = ((on_void + on_crowd) / np.maximum(pred_areas, 1) > 0.5)[:num_pred]
    wrong = ~_marked(j[matched], num_pred) & ~excused
    return Matches(
        gt=i[matched],
        pred=j[matched],
        iou=iou[matched],
        missed=missed,
        wrong=wrong,
        rejected=np.stack([i[~matched], j[~matched]], axis=1),
        rejected_iou=iou[~matched],
    )


def count_matches(
    matches: Matches, gt: SegmentTable, pred: SegmentTable, num_categories: int
) -> NDArray[np.float64]:
    """Count one image: ``(C, 4)`` per category: sum of IoU over the matches, TP, FP, FN."""
    counts = np.zeros((num_categories, 4))
    np.add.at(counts[:, IOU], gt.labels[matches.gt], matches.iou)
    np.add.at(counts[:, TP], gt.labels[matches.gt], 1)
    np.add.at(counts[:, FN], gt.labels[matches.missed], 1)
    np.add.at(counts[:, FP], pred.labels[matches.wrong], 1)
    return counts


def find_overlaps(
    gt_map: NDArray[np.int32], pred_map: NDArray[np.int32], gt: SegmentTable, pred: SegmentTable
) -> Overlaps:
    """The pixels that the values of two maps ``(H, W)`` share, and their segments."""
    gt_map, pred_map = gt_map.ravel(), pred_map.ravel()
    pairs, areas = compiled_maps.shared_areas(gt_map, pred_map) or count_pairs(gt_map, pred_map)
    gt_ids, pred_ids = (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)
    return Overlaps(gt_ids, pred_ids, _indices(gt_ids, gt.ids), _indices(pred_ids, pred.ids), areas)


def count_pairs(
    true: NDArray[np.int32], predicted: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The readable :func:`labkit.datasets.coco.compiled_maps.shared_areas`."""
    starts = run_starts(true, predicted)  # counting runs and their lengths, not pixels
    lengths = np.diff(starts, append=true.size)
    pairs = true[starts].astype(np.int64) << 32 | predicted[starts].astype(np.uint32)
    found, which = np.unique(pairs, return_inverse=True)
    areas = np.bincount(which, lengths, found.size).astype(np.int64)
    return found, areas


def same_category(overlaps: Overlaps, gt: SegmentTable, pred: SegmentTable) -> NDArray[np.bool_]:
    """``(K,)`` whether both segments of each pair are of one category; void has none."""
    gt_labels, pred_labels = np.append(gt.labels, -1), np.append(pred.labels, -2)
    same: NDArray[np.bool_] = gt_labels[overlaps.gt] == pred_labels[overlaps.pred]
    return same


def pixels_on_void(overlaps: Overlaps, gt: SegmentTable, pred: SegmentTable) -> NDArray[Any]:
    """``(P + 1,)`` pixels of each predicted segment that the ground truth leaves unlabelled."""
    void = overlaps.gt == gt.ids.size
    return np.bincount(overlaps.pred[void], overlaps.areas[void], pred.ids.size + 1)


def pixels_on_crowd(overlaps: Overlaps, gt: SegmentTable, pred: SegmentTable) -> NDArray[Any]:
    """``(P + 1,)`` pixels of each predicted segment on a crowd of its category.

    Of several crowd regions of a category in one image, only the last one in the list is used:
    panopticapi does so (a dictionary by category), and the published numbers were computed with it.
    """
    crowds = np.flatnonzero(gt.iscrowd)
    last_of_category = dict(zip(gt.labels[crowds].tolist(), crowds.tolist(), strict=True))
    used = _marked(list(last_of_category.values()), gt.ids.size + 1)[overlaps.gt]
    used &= same_category(overlaps, gt, pred)
    return np.bincount(overlaps.pred[used], overlaps.areas[used], pred.ids.size + 1)


def _indices(values: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.intp]:
    """The index of each value among the ids; the number of ids for one that is not among them."""
    if ids.size == 0:
        return np.zeros(values.size, np.intp)
    order = np.argsort(ids)
    index = order[np.minimum(np.searchsorted(ids, values, sorter=order), ids.size - 1)]
    return np.where(ids[index] == values, index, ids.size)


def _marked(indices: NDArray[Any] | list[int], size: int) -> NDArray[np.bool_]:
    """Array ``(size,)`` that is true at the indices."""
    marks = np.zeros(size, bool)
    marks[indices] = True
    return marks


@dataclass(frozen=True)
class ClassQuality:
    """Panoptic quality of one category, values in 0..1.

    ``pq``, ``sq`` and ``rq`` are nan for a category without TP, FP and FN, which enters no mean.
    They are 0 for a category with FP or FN but without TP.
    """

    category_id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    iou_sum: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class MeanQuality:
    """Means over the ``n`` categories that occur, in 0..1; nan where ``n`` is 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticResult:
    """Panoptic quality of all categories, things, stuff, and of each category."""

    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality
    per_class: tuple[ClassQuality, ...]


def summarize(
    counts: NDArray[np.float64], categories: Iterable[tuple[int, str, bool]]
) -> PanopticResult:
    """Compute panoptic quality from a table of counts.

    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Notebook 06, section 6.3.

    Args:
        counts: ``(C, 4)``, summed over the images.
        categories: id, name and isthing, in the table's order.
    """
    per_class = tuple(
        _class_quality(*category, *row)
        for category, row in zip(categories, counts.tolist(), strict=True)
    )
    return PanopticResult(
        all=_mean(per_class),
        things=_mean([c for c in per_class if c.isthing]),
        stuff=_mean([c for c in per_class if not c.isthing]),
        per_class=per_class,
    )


def _class_quality(
    category_id: int, name: str, isthing: bool, iou: float, tp: float, fp: float, fn: float
) -> ClassQuality:
    size = tp + fp / 2 + fn / 2
    pq, rq = (iou / size, tp / size) if size else (float("nan"), float("nan"))
    sq = iou / tp if tp else 0.0 * rq
    return ClassQuality(category_id, name, isthing, pq, sq, rq, iou, int(tp), int(fp), int(fn))


def _mean(classes: Sequence[ClassQuality]) -> MeanQuality:
    present = [c for c in classes if c.tp + c.fp + c.fn]
    n = len(present)
    if n == 0:
        return MeanQuality(float("nan"), float("nan"), float("nan"), 0)
    return MeanQuality(
        sum(c.pq for c in present) / n,
        sum(c.sq for c in present) / n,
        sum(c.rq for c in present) / n,
        n,
    )
