"""The numbers of the second stage, see ``roi_heads.py``."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.models.rcnn.roi_pooler import PoolerConfig


@dataclass(frozen=True)
class RoIConfig:
    """Numbers of the heads.

    Attributes:
        pooler: levels and RoIAlign.
        box_size: side of the window for the classification.
        hidden: width of the fully connected layers.
        mask_size: side of the window for the mask.
        mask_widths: channels of the mask branch's convolutions, the deconvolution last.
        batch, positive_fraction: proposals drawn for the loss, an image.
        mask_batch: at most so many of the positives train the mask branch, the costliest of the
            heads; None: all.
        beta: where the box loss turns from quadratic to linear; 0 is L1.
        soft_masks: what the masks are trained for is not cut at one half (torchvision).
        score: detections below or at it are dropped.
        nms: IoU above which of two detections of a class the lower-scored one goes.
        detections: at most so many an image.
        min_side: detections must be longer than this on both sides.
        plus_one: boxes go from pixel to pixel (:mod:`labkit.ops.boxes`).
    """

    pooler: PoolerConfig
    box_size: int = 7
    hidden: int = 1024
    mask_size: int = 14
    mask_widths: tuple[int, ...] = (256, 256, 256, 256, 256)
    batch: int = 512
    positive_fraction: float = 0.25
    mask_batch: int | None = None
    beta: float = 0.0
    soft_masks: bool = False
    score: float = 0.05
    nms: float = 0.5
    detections: int = 100
    min_side: float = 0.0
    plus_one: bool = False
