"""Objects and masks in the form of COCO's annotations, as pycocotools wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from labkit.structures import Detections, Target

Annotation = dict[str, Any]


def encode_rle(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's compressed run-length codes of masks ``(N, H, W)`` bool."""
    pixels = masks.cpu().numpy().astype(np.uint8)
    return list(coco_mask.encode(np.asfortranarray(pixels.transpose(1, 2, 0))))


def gt_annotations(target: Target, things: range) -> list[Annotation]:
    """A target's objects, and the crowds of its panoptic map; ``category_id`` is the label."""
    codes = encode_rle(target["masks"])
    truth = [
        {
            "category_id": label,
            "bbox": xywh(box),
            "segmentation": code,
            "area": float(coco_mask.area(code)),
            "iscrowd": 0,
        }
        for label, box, code in zip(
            target["labels"].tolist(), target["boxes"].tolist(), codes, strict=True
        )
    ]
    if "panoptic" in target:
        ids, segments = target["panoptic"].ids, target["panoptic"].segments
        for crowd in (s for s in segments if s.iscrowd and s.label in things):
            (code,) = encode_rle((ids == crowd.id)[None])
            truth.append(
                {
                    "category_id": crowd.label,
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "segmentation": code,
                    "area": float(coco_mask.area(code)),
                    "iscrowd": 1,
                }
            )
    return truth


def detection_annotations(found: Detections) -> list[Annotation]:
    """Detections; ``category_id`` is the label, ``segmentation`` None where there are no masks."""
    codes: Sequence[Any] = [None] * len(found)
    if found.masks is not None:
        codes = encode_rle(found.masks)
    rows = zip(
        found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), codes, strict=True
    )
    return [
        {"category_id": label, "bbox": xywh(box), "score": score, "segmentation": code}
        for label, box, score, code in rows
    ]


def xywh(box: Sequence[float]) -> list[float]:
    """COCO's form of a box: the corner and the sides."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
