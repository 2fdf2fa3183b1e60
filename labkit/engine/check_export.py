"""How far an exported model is from the model itself, on the same images."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from labkit.deploy import Result
from labkit.deploy.result import Array
from labkit.structures import VOID, Detections, Panoptic, Prediction

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Differences:
    """The largest differences of one image, or of several.

    Detections are compared in pairs of the nearest ones, since those of equal scores may change
    places.

    Attributes:
        boxes: of corresponding coordinates, as a fraction of the image's longer side.
        scores: of corresponding scores.
        masks, semantic, panoptic: pixels of a mask or map that differ. In the panoptic map, ids may
            be exchanged.
        unmatched: detections or segments without a partner of their class.
        pixels: of the image.
    """

    boxes: float = 0.0
    scores: float = 0.0
    masks: int = 0
    semantic: int = 0
    panoptic: int = 0
    unmatched: int = 0
    pixels: int = 0

    @property
    def within_tolerance(self) -> bool:
        """All have a partner, and nothing differs by more than TOLERANCE, or one pixel.

        Where the logits of two classes are equal but for rounding, a pixel may have either.
        """
        pixels = max(self.masks, self.semantic, self.panoptic)
        return (
            self.unmatched == 0
            and max(self.boxes, self.scores) <= TOLERANCE
            and pixels <= max(1, TOLERANCE * self.pixels)
        )

    def largest(self, other: Differences) -> Differences:
        """The larger one of each difference."""
        return Differences(*map(max, astuple(self), astuple(other)))


def compare(prediction: Prediction, result: Result, size: tuple[int, int]) -> Differences:
    """Compare a model's prediction with the exported model's result.

    Args:
        prediction: of an image.
        result: of the same image.
        size: (height, width) of the image.
    """
    found = Differences(pixels=size[0] * size[1])
    if prediction.detections is not None:
        found = found.largest(_compare_detections(prediction.detections, result, max(size)))
    if prediction.semantic is not None:
        pixels = int((prediction.semantic.numpy() != result.semantic).sum())
        found = found.largest(Differences(semantic=pixels))
    if prediction.panoptic is not None:
        found = found.largest(_compare_panoptic(prediction.panoptic, result))
    return found


def _compare_detections(detections: Detections, result: Result, side: int) -> Differences:
    boxes, scores, labels = (
        part.numpy() for part in (detections.boxes, detections.scores, detections.labels)
    )
    box_distance = np.abs(boxes[:, None] - result.boxes).max(axis=2, initial=0) / side
    score_distance = np.abs(scores[:, None] - result.scores)
    distance = np.maximum(box_distance, score_distance)
    distance[labels[:, None] != result.labels] = np.inf
    rows, columns = _pairs(distance)
    masks = 0
    if detections.masks is not None and len(rows):
        different = detections.masks.numpy()[rows] != result.masks[columns]
        masks = int(different.sum(axis=(1, 2)).max())
    return Differences(
        float(box_distance[rows, columns].max(initial=0)),
        float(score_distance[rows, columns].max(initial=0)),
        masks,
        unmatched=len(boxes) + len(result.boxes) - 2 * len(rows),
    )


def _pairs(distance: Array) -> tuple[Array, Array]:
    """Rows and columns that are the nearest to one another, each at most once."""
    rows, columns = [], []
    for index in np.argsort(distance, axis=None, kind="stable"):
        row, column = np.unravel_index(index, distance.shape)
        if np.isinf(distance[row, column]):
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return np.array(rows, np.int64), np.array(columns, np.int64)


def _compare_panoptic(panoptic: Panoptic, result: Result) -> Differences:
    """A segment's partner is of its class, and the one that it shares the most pixels with."""
    own = {VOID: -1} | {segment.id: segment.label for segment in panoptic.segments}
    other = {VOID: -1} | {segment["id"]: segment["label"] for segment in result.segments}
    pairs = np.stack([panoptic.ids.numpy().ravel(), result.panoptic.ravel()], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    partners: dict[int, int] = {}
    same = 0
    for i in np.argsort(-counts, kind="stable"):
        a, b = unique[i].tolist()
        if own[a] == other[b] and a not in partners and b not in partners.values():
            same += int(counts[i])
            partners[a] = b
    matched = len(partners.keys() - {VOID})
    return Differences(
        panoptic=len(pairs) - same, unmatched=len(own) + len(other) - 2 - 2 * matched
    )
