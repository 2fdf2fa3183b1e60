"""Non-maximum suppression step by step, with the box that suppresses each other box.

The detectors call torchvision's NMS, which returns the kept boxes. This is the same algorithm
written out, with a record of every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops.boxes import at_least_float32


@dataclass(frozen=True)
class Suppression:
    """A box that a step suppresses, and its IoU with the box that the step keeps."""

    index: int
    iou: float


@dataclass(frozen=True)
class NMSStep:
    """One step: the kept box and the boxes that it suppresses, best score first."""

    kept: int
    suppressed: tuple[Suppression, ...]


def iou_with(box: Tensor, boxes: Tensor) -> Tensor:
    """IoU ``(N,)`` of one box ``(4,)`` with boxes ``(N, 4)``, all XYXY.

    Boxes in half precision are computed with in float32: their areas would be infinite.
    """
    box, boxes = box.to(at_least_float32(box)), boxes.to(at_least_float32(boxes))
    corner = torch.maximum(box[:2], boxes[:, :2])
    opposite = torch.minimum(box[2:], boxes[:, 2:])
    intersection = (opposite - corner).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2]).prod()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return intersection / (area + areas - intersection)


def nms_steps(boxes: Tensor, scores: Tensor, threshold: float) -> list[NMSStep]:
    """Suppress boxes that overlap a box with a higher score, step by step.

    P. F. Felzenszwalb et al., "Object Detection with Discriminatively Trained Part-Based Models",
    PAMI 2010, section 7.2. Notebook 03, section 3.7.

    Every step keeps the best box that is left, and removes those that overlap it by more than the
    threshold. Boxes of equal score are taken in their order.

    Args:
        boxes: ``(N, 4)`` XYXY.
        scores: ``(N,)``.
        threshold: IoU, 0 to 1.

    Returns:
        The steps. Their ``kept`` are what torchvision's ``nms`` returns.

    Raises:
        LabkitError: other shapes, scores that are not numbers, or a threshold outside 0 to 1.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise LabkitError(
            f"nms: boxes must be (N, 4) and scores (N,), got {tuple(boxes.shape)} "
            f"and {tuple(scores.shape)}"
        )
    if bool(scores.isnan().any()):
        raise LabkitError(f"nms: score {int(scores.isnan().nonzero()[0])} is not a number")
    if not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise LabkitError(f"nms: threshold is an IoU, so between 0 and 1, not {threshold}")
    left = scores.argsort(descending=True, stable=True)
    steps = []
    while len(left):
        best, rest = left[0], left[1:]
        # In double precision: torch would round the threshold to the boxes' precision first, and
        # an IoU of exactly 0.3 in float32 is more than 0.3.
        iou = iou_with(boxes[best], boxes[rest]).double()
        removed = iou > threshold
        pairs = zip(rest[removed].tolist(), iou[removed].tolist(), strict=True)
        steps.append(NMSStep(int(best), tuple(Suppression(i, value) for i, value in pairs)))
        left = rest[~removed]
    return steps
