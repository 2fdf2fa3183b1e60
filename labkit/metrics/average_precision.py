"""Average precision (AP) of detections, as COCO defines it, in steps that a lesson can show.

The definition is that of https://cocodataset.org/#detection-eval. For every class and every IoU
threshold 0.50, 0.55, .., 0.95:

1. :func:`match_detections`, image by image: each detection, best score first, takes the unmatched
   object with the highest IoU, if that reaches the threshold.
2. :func:`precision_recall`, over all images: walking down the scores, what share of the detections
   so far is right, and what share of the objects has been found.
3. :func:`area_under`: precision, made monotone, averaged at 101 recalls.

AP is the mean over the classes that occur in the truth and over the thresholds. For COCO's own
numbers, with crowds and sizes, see ``coco_ap``.

Letters in shapes: ``D`` detections, ``G`` true objects, ``T`` thresholds, ``C`` thing classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from labkit.errors import LabkitError
from labkit.structures import Categories, Detections, Target, target_to

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
"""Of one class in one image; COCO leaves out those with lower scores."""

Kind = Literal["boxes", "masks"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AveragePrecision:
    """AP in 0..1; nan where there is no true object.

    Attributes:
        table: ``(T, C)`` AP of each threshold and class.
    """

    table: Floats

    @property
    def ap(self) -> float:
        """Mean over thresholds and classes."""
        return self._mean(self.table)

    @property
    def ap50(self) -> float:
        """Mean over the classes at IoU 0.5."""
        return self._mean(self.table[0])

    @property
    def ap75(self) -> float:
        """Mean over the classes at IoU 0.75."""
        return self._mean(self.table[5])

    @staticmethod
    def _mean(values: Floats) -> float:
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else float("nan")


def average_precision(
    pairs: Iterable[tuple[Detections, Target]], categories: Categories, kind: Kind = "masks"
) -> AveragePrecision:
    """AP of the detections of all images.

    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Notebook 03, section
    3.7.

    Args:
        pairs: detections and truth of each image. Equal scores keep this order.
        categories: the things among them are the classes.
        kind: what overlaps: "boxes" or "masks".

    Raises:
        LabkitError: masks are asked for and a detection has none, or sizes differ.
    """
    classes = len(categories.things)
    scores: list[list[Floats]] = [[] for _ in range(classes)]
    right: list[list[NDArray[np.bool_]]] = [[] for _ in range(classes)]
    objects = np.zeros(classes, int)
    for found_there, target_there in pairs:
        found, target = found_there.to("cpu"), target_to(target_there, "cpu")
        labels, true_labels = found.labels.numpy(), target["labels"].numpy()
        for label in {*labels.tolist(), *true_labels.tolist()}:
            mine = np.flatnonzero(labels == label)
            order = np.argsort(-found.scores.numpy()[mine], kind="stable")[:MAX_DETECTIONS]
            mine, true = mine[order], np.flatnonzero(true_labels == label)  # (D,), (G,)
            iou = detection_iou(found, target, kind, mine, true)
            scores[label].append(found.scores.numpy()[mine].astype(np.float64))
            right[label].append(
                np.stack([match_detections(iou, t) >= 0 for t in THRESHOLDS])
            )  # (T, D)
            objects[label] += len(true)
    table = np.full((len(THRESHOLDS), classes), np.nan)
    for label in np.flatnonzero(objects):
        all_scores = np.concatenate(scores[label])
        for row, hits in zip(table, np.concatenate(right[label], axis=1), strict=True):
            row[label] = area_under(*precision_recall(all_scores, hits, int(objects[label])))
    return AveragePrecision(table)


def detection_iou(
    found: Detections,
    target: Target,
    kind: Kind,
    mine: NDArray[np.intp],
    true: NDArray[np.intp],
) -> Floats:
    """IoU ``(D, G)`` of the detections ``mine`` (D,) with the objects ``true`` (G,)."""
    if kind == "boxes":
        return box_iou(found.boxes[mine].double(), target["boxes"][true].double()).numpy()
    if found.masks is None:
        raise LabkitError("AP of masks: the detections have boxes only; ask for boxes")
    if found.masks.shape[1:] != target["masks"].shape[1:]:
        raise LabkitError(
            f"image {target['image_id']}: detected masks are {tuple(found.masks.shape[1:])}, true"
            f" ones {tuple(target['masks'].shape[1:])} (height, width)"
        )
    a = found.masks[mine].flatten(1).float()  # (D, H W); sums of 0 and 1 are exact below 2 ** 24
    b = target["masks"][true].flatten(1).float()  # (G, H W)
    both = (a @ b.T).double()  # (D, G)
    either = a.sum(1).double()[:, None] + b.sum(1).double() - both
    iou: Tensor = torch.where(either > 0, both / either, 0.0)
    return iou.numpy()


def match_detections(iou: Floats, threshold: float) -> NDArray[np.int64]:
    """Which object each detection of an image takes.

    Args:
        iou: ``(D, G)``, the detections in order of their scores, best first.
        threshold: an overlap that reaches it is enough.

    Returns:
        ``(D,)``: the object's index, or -1, a false positive. No object is taken twice; objects
        that nobody took are the false negatives.
    """
    taken = np.full(len(iou), -1)
    if iou.shape[1] == 0:
        return taken
    free = np.array(iou)  # a copy; columns of taken objects become -1
    for i, row in enumerate(free):
        best = len(row) - 1 - int(row[::-1].argmax())  # COCO takes the last of equals
        if row[best] >= threshold:
            taken[i] = best
            free[:, best] = -1
    return taken


def precision_recall(
    scores: Floats, right: NDArray[np.bool_], objects: int
) -> tuple[Floats, Floats]:
    """Precision and recall ``(D,)`` after each detection, best score first.

    Args:
        scores: ``(D,)`` of one class in all images.
        right: ``(D,)`` whether it took an object.
        objects: how many there are to be found.
    """
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    return hits / np.arange(1, len(hits) + 1), hits / objects


def area_under(precision: Floats, recall: Floats) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond; 0 where never reached.

    Args:
        precision, recall: ``(D,)`` of :func:`precision_recall`.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")  # the first detection that reaches it
    return float(np.append(envelope, 0.0)[place].mean())
