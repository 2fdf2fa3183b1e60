"""Ground truth and detections as COCO annotations, the input of pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from labkit.structures import Detections, Target

Annotation = dict[str, Any]


def encode_rle(masks: Tensor) -> list[dict[str, Any]]:
    """Encode masks ``(N, H, W)`` bool as COCO's compressed run-length codes."""
    pixels = masks.cpu().numpy().astype(np.uint8)
    return list(coco_mask.encode(np.asfortranarray(pixels.transpose(1, 2, 0))))


def gt_annotations(target: Target, things: range) -> list[Annotation]:
    """Annotations of a target's objects and its panoptic map's crowds; category ids are labels."""
    codes = encode_rle(target["masks"])
    gt = [
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
            gt.append(
                {
                    "category_id": crowd.label,
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "segmentation": code,
                    "area": float(coco_mask.area(code)),
                    "iscrowd": 1,
                }
            )
    return gt


def detection_annotations(detections: Detections) -> list[Annotation]:
    """Annotations of detections; category ids are labels, ``segmentation`` may be None."""
    codes: Sequence[Any] = [None] * len(detections)
    if detections.masks is not None:
        codes = encode_rle(detections.masks)
    rows = zip(
        detections.labels.tolist(),
        detections.boxes.tolist(),
        detections.scores.tolist(),
        codes,
        strict=True,
    )
    return [
        {"category_id": label, "bbox": xywh(box), "score": score, "segmentation": code}
        for label, box, score, code in rows
    ]


def xywh(box: Sequence[float]) -> list[float]:
    """Convert a box from XYXY to COCO's x, y, width, height."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
