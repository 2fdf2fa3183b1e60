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
    num_classes = len(categories.things)
    scores: list[list[Floats]] = [[] for _ in range(num_classes)]
    matched: list[list[NDArray[np.bool_]]] = [[] for _ in range(num_classes)]
    num_gt = np.zeros(num_classes, int)
    for image_detections, image_target in pairs:
        detections, target = image_detections.to("cpu"), target_to(image_target, "cpu")
        all_scores = detections.scores.numpy().astype(np.float64)
        labels, gt_labels = detections.labels.numpy(), target["labels"].numpy()
        for label in {*labels.tolist(), *gt_labels.tolist()}:
            idxs = np.flatnonzero(labels == label)
            best_first = np.argsort(-all_scores[idxs], kind="stable")
            idxs = idxs[best_first[:MAX_DETECTIONS]]  # (D,)
            gt_idxs = np.flatnonzero(gt_labels == label)  # (G,)
            iou = detection_iou(detections, target, kind, idxs, gt_idxs)
            scores[label].append(all_scores[idxs])
            matched[label].append(
                np.stack([match_detections(iou, t) >= 0 for t in THRESHOLDS])
            )  # (T, D)
            num_gt[label] += len(gt_idxs)
    table = np.full((len(THRESHOLDS), num_classes), np.nan)
    for label in np.flatnonzero(num_gt):
        class_scores = np.concatenate(scores[label])  # of all images
        class_matched = np.concatenate(matched[label], axis=1)  # (T, all detections)
        for row, at_threshold in zip(table, class_matched, strict=True):
            precision, recall = precision_recall(class_scores, at_threshold, int(num_gt[label]))
            row[label] = area_under(precision, recall)
    return AveragePrecision(table)


def detection_iou(
    detections: Detections,
    target: Target,
    kind: Kind,
    idxs: NDArray[np.intp],
    gt_idxs: NDArray[np.intp],
) -> Floats:
    """IoU ``(D, G)`` of some detections with some ground-truth objects of an image.

    Args:
        detections, target: of the image.
        kind: compute IoU of "boxes" or "masks".
        idxs: ``(D,)`` which detections.
        gt_idxs: ``(G,)`` which objects.

    Raises:
        LabkitError: ``kind`` is "masks" and the detections have none, or sizes differ.
    """
    if kind == "boxes":
        return box_iou(detections.boxes[idxs].double(), target["boxes"][gt_idxs].double()).numpy()
    if detections.masks is None:
        raise LabkitError("AP of masks: the detections have boxes only; ask for boxes")
    if detections.masks.shape[1:] != target["masks"].shape[1:]:
        raise LabkitError(
            f"image {target['image_id']}: detected masks are {tuple(detections.masks.shape[1:])},"
            f" ground-truth masks {tuple(target['masks'].shape[1:])} (height, width)"
        )
    # Sums of 0 and 1 are exact in float32 below 2 ** 24.
    masks = detections.masks[idxs].flatten(1).float()  # (D, H W)
    gt_masks = target["masks"][gt_idxs].flatten(1).float()  # (G, H W)
    intersection = (masks @ gt_masks.T).double()  # (D, G)
    union = masks.sum(1).double()[:, None] + gt_masks.sum(1).double() - intersection
    iou: Tensor = torch.where(union > 0, intersection / union, 0.0)
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
    matched_idxs = np.full(len(iou), -1)
    if iou.shape[1] == 0:
        return matched_idxs
    left = np.array(iou)  # a copy; the columns of matched objects become -1
    for i, row in enumerate(left):
        best = len(row) - 1 - int(row[::-1].argmax())  # COCO takes the last of equals
        if row[best] >= threshold:
            matched_idxs[i] = best
            left[:, best] = -1
    return matched_idxs


def precision_recall(
    scores: Floats, matched: NDArray[np.bool_], num_gt: int
) -> tuple[Floats, Floats]:
    """Precision and recall ``(D,)`` after each detection, best score first.

    Args:
        scores: ``(D,)`` scores of one class in all images.
        matched: ``(D,)`` whether a detection is matched.
        num_gt: number of ground-truth objects of the class.
    """
    tp = np.cumsum(matched[np.argsort(-scores, kind="stable")])
    return tp / np.arange(1, len(tp) + 1), tp / num_gt


def area_under(precision: Floats, recall: Floats) -> float:
    """Mean over 101 recalls of the highest precision at that recall or a higher one, else 0.

    Args:
        precision, recall: ``(D,)``, the results of :func:`precision_recall`.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")  # the first detection that reaches it
    return float(np.append(envelope, 0.0)[place].mean())
