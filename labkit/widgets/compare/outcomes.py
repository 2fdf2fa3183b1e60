"""Outcomes of a model's segments against the ground truth: TP, FP, FN.

Panoptic maps are matched as in panoptic quality, detections as in average precision at IoU 0.5. The
segments of an outcome layer are pairs of a predicted and a missed segment, so that a missed object
is visible even if something else was predicted in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from labkit.colors import PETROFF_10
from labkit.datasets.targets import annotation_of
from labkit.engine.evaluate import map_labels
from labkit.errors import LabkitError
from labkit.metrics.average_precision import detection_iou
from labkit.metrics.average_precision import match_detections as match_objects
from labkit.metrics.panoptic_quality import match_panoptic
from labkit.structures import Categories, Detections, Target
from labkit.widgets.compare.image_source import SourceImage
from labkit.widgets.compare.thresholds import Result
from labkit.widgets.viewer.segment_layers import Layer, SegmentInfo, layer_of

RIGHT, FALSE, BOTH, MISSED, UNCOUNTED = (PETROFF_10[i] for i in (0, 2, 4, 1, 3))
NEUTRAL = (235, 235, 235)
COLORS = {
    "TP: IoU above 0.5": RIGHT,
    "FP: no match": FALSE,
    "FN: missed": MISSED,
    "FP over an FN": BOTH,
    "does not count": UNCOUNTED,
}

IOU = 0.5
"""IoU from which on a detection is a TP."""


@dataclass(frozen=True)
class SegmentOutcomes:
    """Outcomes by segment id; predicted segments in neither ``right`` nor ``wrong`` do not count.

    Attributes:
        right: TP: predicted id to (ground-truth id, IoU).
        wrong: FP: predicted segments without a match.
        missed: FN: ground-truth segments without a match.
    """

    right: dict[int, tuple[int, float]]
    wrong: frozenset[int]
    missed: frozenset[int]

    def __str__(self) -> str:
        return f"{len(self.right)} TP, {len(self.wrong)} FP, {len(self.missed)} FN"


def same_classes(known: Categories | None, wanted: Categories) -> bool:
    """Whether labels mean the same; a model without categories predicts the data set's."""
    return known is None or [(c.id, c.name) for c in known] == [(c.id, c.name) for c in wanted]


def segment_outcomes(
    shown: Result, picture: SourceImage, categories: Categories | None
) -> SegmentOutcomes:
    """Match a prediction with the ground truth of an image.

    Args:
        shown: the model's map or detections.
        picture: the image, with ``target`` and ``categories``.
        categories: the model's classes.

    Raises:
        LabkitError: the ground truth has no panoptic map, or classes that the model does not know.
    """
    target, wanted = picture.target, picture.categories
    assert target is not None
    assert wanted is not None
    if isinstance(shown, Detections):
        labels = labels_in_gt_classes(shown, categories, wanted)
        return _of_objects(shown, target, labels, _object_ids(target, wanted))
    true = target.get("panoptic")
    if true is None:
        raise LabkitError("the ground truth has objects only, no panoptic map to compare with")
    if not same_classes(categories, wanted):
        raise LabkitError("the model was trained on other classes than the ground truth has")
    matches = match_panoptic(shown, true, wanted)
    found_ids = [segment.id for segment in shown.segments]
    true_ids = [segment.id for segment in true.segments]
    pairs = zip(matches.pred, matches.gt, matches.iou, strict=True)
    return SegmentOutcomes(
        {found_ids[p]: (true_ids[t], float(iou)) for p, t, iou in pairs},
        frozenset(found_ids[p] for p in np.flatnonzero(matches.wrong)),
        frozenset(true_ids[t] for t in np.flatnonzero(matches.missed)),
    )


def labels_in_gt_classes(
    found: Detections, known: Categories | None, wanted: Categories
) -> np.ndarray:
    """Translate labels ``(N,)`` to the ground truth's classes; -1 for classes that it lacks.

    Raises:
        LabkitError: the ground truth has classes that the model does not know.
    """
    labels = map_labels(wanted if known is None else known, wanted)
    return np.asarray(labels[found.labels])


def _of_objects(
    found: Detections, target: Target, labels: np.ndarray, true_ids: list[int]
) -> SegmentOutcomes:
    if found.masks is None:
        raise LabkitError("the model predicts boxes only, no masks to compare")
    true_labels = target["labels"].numpy()
    right: dict[int, tuple[int, float]] = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        mine, true = np.flatnonzero(labels == label), np.flatnonzero(true_labels == label)
        mine = mine[np.argsort(-found.scores.numpy()[mine], kind="stable")]
        iou = detection_iou(found, target, "masks", mine, true)
        for row, (i, taken) in enumerate(zip(mine, match_objects(iou, IOU), strict=True)):
            if taken >= 0:
                right[int(i) + 1] = true_ids[true[taken]], float(iou[row, taken])
    matched = {true for true, _ in right.values()}
    counted = {int(i) + 1 for i in np.flatnonzero(labels >= 0)} - _on_crowd(found, target, labels)
    return SegmentOutcomes(
        right, frozenset(counted - right.keys()), frozenset(set(true_ids) - matched)
    )


def _on_crowd(found: Detections, target: Target, labels: np.ndarray) -> set[int]:
    """Detections with more than half of their pixels on a crowd of their class."""
    panoptic, excused = target.get("panoptic"), set()
    for crowd in [] if panoptic is None else [s for s in panoptic.segments if s.iscrowd]:
        assert panoptic is not None
        assert found.masks is not None
        region = panoptic.ids == crowd.id
        for i in np.flatnonzero(labels == crowd.label).tolist():
            mask = found.masks[i]
            if 2 * int((mask & region).sum()) > int(mask.sum()):
                excused.add(i + 1)
    return excused


def _object_ids(target: Target, categories: Categories) -> list[int]:
    """Segment ids of a target's objects; without a panoptic map they are numbered from 1."""
    panoptic = target.get("panoptic")
    if panoptic is None:
        return list(range(1, len(target["labels"]) + 1))
    return [s.id for s in panoptic.segments if s.label in categories.things and not s.iscrowd]


def gt_layer(picture: SourceImage) -> Layer:
    """Panel of the ground truth; its segments are linked with those that match them."""
    target, categories = picture.target, picture.categories
    assert target is not None
    assert categories is not None
    layer = layer_of(annotation_of(target), categories, "ground truth")
    info = {i: replace(entry, score=None, match=i) for i, entry in layer.info.items()}
    return replace(layer, info=info)


def in_neutral(gt: Layer) -> Layer:
    """Panel of the ground truth in grey, beside panels whose colours mean TP, FP and FN."""
    info = {i: replace(entry, color=NEUTRAL) for i, entry in gt.info.items()}
    return replace(gt, info=info)


def with_outcomes(layer: Layer, outcome: SegmentOutcomes, gt: Layer) -> Layer:
    """Add each segment's outcome to its note."""
    info = {i: replace(e, **_note(i, outcome, gt)) for i, e in layer.info.items()}  # type: ignore[arg-type]
    return replace(layer, info=info)


def _note(i: int, outcome: SegmentOutcomes, gt: Layer) -> dict[str, str | int | None]:
    if i in outcome.right:
        true, iou = outcome.right[i]
        return {"note": f"TP, IoU {iou:.2f} with {gt.info[true].text}", "match": true}
    if i in outcome.wrong:
        return {"note": "FP, matches no ground-truth segment", "match": None}
    note = "does not count: on void or crowd, or its class is not in the ground truth"
    return {"note": note, "match": None}


def outcome_layer(layer: Layer, outcome: SegmentOutcomes, gt: Layer) -> Layer:
    """Panel of the outcomes: colours mean TP, FP and FN instead of classes.

    Args:
        layer: the predicted segments, from :func:`with_outcomes`.
        outcome: their outcomes.
        gt: the ground truth, from :func:`gt_layer`.
    """
    found_ids, found = _positions(layer.ids, sorted(layer.info))
    missed_ids, missed = _positions(gt.ids, sorted(outcome.missed))
    pairs = found * len(missed_ids) + missed  # (H, W)
    number = np.zeros(len(found_ids) * len(missed_ids), np.int32)
    info: dict[int, SegmentInfo] = {}
    for pair in np.flatnonzero(np.bincount(pairs.ravel(), minlength=len(number))):
        here, gone = found_ids[pair // len(missed_ids)], missed_ids[pair % len(missed_ids)]
        if here or gone:
            number[pair] = len(info) + 1
            info[len(info) + 1] = _pair(here, gone, layer, outcome, gt)
    return Layer(f"{layer.title}: {outcome}", number[pairs], info)


def _positions(ids: np.ndarray, listed: list[int]) -> tuple[list[int], np.ndarray]:
    """List 0 and the given ids, and each pixel's index in this list, 0 for other ids."""
    order = np.array([0, *listed], ids.dtype)
    at = np.searchsorted(order, ids).clip(max=len(order) - 1)
    return order.tolist(), np.where(order[at] == ids, at, 0)


def _pair(here: int, gone: int, layer: Layer, outcome: SegmentOutcomes, gt: Layer) -> SegmentInfo:
    if not gone:
        color = RIGHT if here in outcome.right else FALSE if here in outcome.wrong else UNCOUNTED
        return replace(layer.info[here], color=color)
    lost = gt.info[gone]
    if here in outcome.wrong:
        note = f"FP, where {lost.text} is missed (FN)"
        return replace(layer.info[here], color=BOTH, note=note, match=gone)
    instead = layer.info[here].description if here else "nothing"
    return replace(lost, color=MISSED, note=f"FN, missed; predicted here: {instead}")
