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
from labkit.datasets.coco.panoptic_png import check_segments, run_starts
from labkit.errors import LabkitError

VOID = 0
IOU, TP, FP, FN = range(4)  # the columns of a table of counts
AREA_SLACK = (2, 0.01)
"""Tolerance of an area in a file: pixels, or a share of the pixels in the map."""


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


class Matches(NamedTuple):
    """Matches of one image: TP, FP and FN as indices into the two segment tables.

    Attributes:
        target, prediction: ``(M,)``, ground-truth and predicted segment of each match (TP).
        iou: ``(M,)`` float64, above 0.5.
        missed: ``(S,)`` bool, ground-truth segments without a match (FN).
        wrong: ``(P,)`` bool, predicted segments without a match (FP). A segment that is neither
            matched nor wrong lies mostly on void or crowd and is ignored.
        rejected: ``(K, 2)``, pairs of a ground-truth and a predicted segment of one category that
            share pixels without a match.
        rejected_iou: ``(K,)`` float64, at most 0.5.
    """

    target: NDArray[np.intp]
    prediction: NDArray[np.intp]
    iou: NDArray[np.float64]
    missed: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    rejected: NDArray[np.intp]
    rejected_iou: NDArray[np.float64]


def match_segments(
    target_map: NDArray[np.int32],
    prediction_map: NDArray[np.int32],
    target: SegmentTable,
    prediction: SegmentTable,
    where: tuple[str, str],
    names: tuple[str, str],
) -> Matches:
    """Match the segments of one image.

    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Notebook 06, section 6.2.

    Args:
        target_map: ``(H, W)`` ground-truth ids.
        prediction_map: ``(H, W)`` predicted ids.
        target: ground-truth segments; id 0 is void and not among them.
        prediction: predicted segments; id 0 may be one of them.
        where: names of the ground-truth and the predicted map in messages.
        names: names of map and list in messages, see :func:`check_segments`.

    Raises:
        LabkitError: the maps differ in size, a map and its list have different ids, or an area in
            the file differs from the map.
    """
    if target_map.shape != prediction_map.shape:
        size, expected = prediction_map.shape, target_map.shape
        raise LabkitError(
            f"{where[1]}: is {size[0]} x {size[1]} pixels (height x width), its ground truth"
            f" {where[0]} is {expected[0]} x {expected[1]}"
        )
    true, predicted, shared = shared_areas(target_map.ravel(), prediction_map.ravel())
    # From here on, segments are indices in ascending order of ids, with void at index 0.
    r, rows = _positions(true, target.ids, where[0], names)
    c, columns = _positions(predicted, prediction.ids, where[1], names)
    num_rows, num_columns = rows.max(initial=0) + 1, columns.max(initial=0) + 1

    row_label, column_label = np.full(num_rows, -1), np.full(num_columns, -2)
    row_label[rows], column_label[columns] = target.labels, prediction.labels
    crowd = _marked(rows[target.iscrowd], num_rows)
    true_area = np.bincount(r, shared, num_rows)
    predicted_area = np.bincount(c, shared, num_columns)
    if target.areas is not None:
        _check_areas(target.ids, target.areas, true_area[rows], where[0])
        true_area[rows] = target.areas

    # An unmatched prediction is ignored if more than half of it lies on void or crowd. Of several
    # crowd regions of a category in one image, only the last one in the list is used: panopticapi
    # does so (a dictionary by category), and the published numbers were computed with it.
    on_void = np.bincount(c[r == VOID], shared[r == VOID], num_columns)
    crowd_of = dict(zip(target.labels[target.iscrowd], rows[target.iscrowd], strict=True))
    used = _marked(list(crowd_of.values()), num_rows)
    on_crowd = used[r] & (row_label[r] == column_label[c])
    excused = on_void + np.bincount(c[on_crowd], shared[on_crowd], num_columns)

    comparable = (row_label[r] == column_label[c]) & ~crowd[r]
    r, c, shared = r[comparable], c[comparable], shared[comparable]
    if (impossible := true_area[r] < shared).any():
        t = int(target.ids[rows == r[impossible][0]][0])
        raise LabkitError(f'{where[0]}: the "area" of segment {t} is less than its pixels')
    # Unlabelled pixels (row 0) count neither for nor against a prediction.
    iou = shared / (predicted_area[c] + true_area[r] - shared - on_void[c])
    enough = iou > 0.5
    number_of_row, number_of_column = np.zeros(num_rows, int), np.zeros(num_columns, int)
    number_of_row[rows], number_of_column[columns] = map(np.arange, (rows.size, columns.size))
    pairs = np.stack([number_of_row[r], number_of_column[c]], axis=1)
    missed = ~_marked(r[enough], num_rows)[rows] & ~target.iscrowd
    unmatched = ~_marked(c[enough], num_columns)[columns]
    wrong = unmatched & (excused[columns] / predicted_area[columns] <= 0.5)
    return Matches(
        target=pairs[enough, 0],
        prediction=pairs[enough, 1],
        iou=iou[enough],
        missed=missed,
        wrong=wrong,
        rejected=pairs[~enough],
        rejected_iou=iou[~enough],
    )


def count_matches(
    matches: Matches, target: SegmentTable, prediction: SegmentTable, num_categories: int
) -> NDArray[np.float64]:
    """Count one image: ``(C, 4)`` per category: sum of IoU over the matches, TP, FP, FN."""
    counts = np.zeros((num_categories, 4))
    np.add.at(counts[:, IOU], target.labels[matches.target], matches.iou)
    np.add.at(counts[:, TP], target.labels[matches.target], 1)
    np.add.at(counts[:, FN], target.labels[matches.missed], 1)
    np.add.at(counts[:, FP], prediction.labels[matches.wrong], 1)
    return counts


def shared_areas(
    true: NDArray[np.int32], predicted: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Pairs of ids that share pixels, ``(K,)`` and ``(K,)``, ascending, and their areas ``(K,)``.

    Args:
        true, predicted: ``(P,)`` ids of the same pixels.
    """
    pairs, areas = compiled_maps.shared_areas(true, predicted) or count_pairs(true, predicted)
    return (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32), areas


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


def _check_areas(
    ids: NDArray[np.int32], stated: NDArray[np.float64], counted: NDArray[Any], where: str
) -> None:
    """Refuse areas that differ from the map, because IoU and PQ would be wrong.

    Like panopticapi, the evaluation divides by the areas in the file; a difference of a pixel or
    two is allowed.
    """
    wrong = np.abs(stated - counted) > np.maximum(AREA_SLACK[0], AREA_SLACK[1] * counted)
    if wrong.any():
        k = int(wrong.argmax())
        raise LabkitError(
            f'{where}: the "area" of segment {ids[k]} is {stated[k]:g}, in the PNG it has'
            f" {int(counted[k])} pixels ({int(wrong.sum())} of {ids.size} areas of this image are"
            " wrong); write the number of pixels"
        )


def _positions(
    values: NDArray[np.int32], ids: NDArray[np.int32], where: str, names: tuple[str, str]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of ``values`` and of ``ids`` in ascending order of ids, with void first.

    Raises:
        LabkitError: ``values`` and ``ids`` differ in more than void.
    """
    order = np.sort(np.append(ids[ids != VOID], np.int32(VOID)))
    position = np.minimum(np.searchsorted(order, values), order.size - 1)
    of_ids = np.searchsorted(order, ids)
    occurs = np.bincount(position, minlength=order.size) > 0
    if (order[position] != values).any() or not occurs[of_ids].all():
        check_segments(ids.tolist(), np.unique(values).tolist(), where, names)
    return position, of_ids


def _marked(indices: NDArray[np.intp] | list[int], size: int) -> NDArray[np.bool_]:
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
