"""Average precision (AP) of detections as COCO defines it, in readable steps.

The definition is that of https://cocodataset.org/#detection-eval. For every class and every IoU
threshold 0.50, 0.55, .., 0.95:

1. :func:`match_detections`, image by image: each detection, best score first, takes the unmatched
   object with the highest IoU, if that reaches the threshold.
2. :func:`precision_recall`, over all images: after each detection, in order of the scores, the
   share of correct detections and the share of detected objects.
3. :func:`area_under`: the monotone envelope of the precision, averaged at 101 recalls.

AP is the mean over the thresholds and over the classes in the ground truth. For COCO's own numbers,
with crowds and sizes, see ``coco_ap``.

Letters in shapes: ``D`` detections, ``G`` ground-truth objects, ``T`` thresholds, ``C`` thing
classes.
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
"""Limit per class and image; COCO ignores the detections with lower scores."""

Kind = Literal["boxes", "masks"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AveragePrecision:
    """AP in 0..1; nan without ground-truth objects.

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
    """Compute AP of the detections of all images.

    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Notebook 03, section
    3.9.

    Args:
        pairs: detections and ground truth of each image. Equal scores keep this order.
        categories: their things are the classes.
        kind: compute IoU of "boxes" or "masks".

    Raises:
        LabkitError: ``kind`` is "masks" and detections have none, or sizes differ.
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
    """IoU ``(D, G)`` of detections ``mine`` (D,) and ground-truth objects ``true`` (G,)."""
    if kind == "boxes":
        return box_iou(found.boxes[mine].double(), target["boxes"][true].double()).numpy()
    if found.masks is None:
        raise LabkitError("AP of masks: the detections have boxes only; ask for boxes")
    if found.masks.shape[1:] != target["masks"].shape[1:]:
        raise LabkitError(
            f"image {target['image_id']}: detected masks are {tuple(found.masks.shape[1:])},"
            f" ground-truth masks {tuple(target['masks'].shape[1:])} (height, width)"
        )
    a = found.masks[mine].flatten(1).float()  # (D, H W); sums of 0 and 1 are exact below 2 ** 24
    b = target["masks"][true].flatten(1).float()  # (G, H W)
    both = (a @ b.T).double()  # (D, G)
    either = a.sum(1).double()[:, None] + b.sum(1).double() - both
    iou: Tensor = torch.where(either > 0, both / either, 0.0)
    return iou.numpy()


def match_detections(iou: Floats, threshold: float) -> NDArray[np.int64]:
    """Match the detections of an image to objects, greedily by score.

    Args:
        iou: ``(D, G)``, the detections in order of their scores, best first.
        threshold: smallest IoU of a match.

    Returns:
        ``(D,)``: the object's index, or -1 for a false positive. Each object is matched at most
        once; unmatched objects are false negatives.
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
        scores: ``(D,)`` scores of one class in all images.
        right: ``(D,)`` whether a detection is matched.
        objects: number of ground-truth objects of the class.
    """
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    return hits / np.arange(1, len(hits) + 1), hits / objects


def area_under(precision: Floats, recall: Floats) -> float:
    """Mean over 101 recalls of the highest precision at that recall or a higher one, else 0.

    Args:
        precision, recall: ``(D,)``, the results of :func:`precision_recall`.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")  # the first detection that reaches it
    return float(np.append(envelope, 0.0)[place].mean())
