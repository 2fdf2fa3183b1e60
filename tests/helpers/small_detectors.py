"""The detectors of the golden runs: small heads on a full ResNet-50, weights and inputs by formula.

Both sides build the same thing from names and shapes alone, so that no weights need to be kept.
"""

import zlib
from dataclasses import replace

import numpy as np
import torch

from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

KINDS = {
    "fpn": "mask_rcnn_r50",
    "c4": "mask_rcnn_r50_c4",
    "dc5": "mask_rcnn_r50_dc5",
    "panoptic": "panoptic_fpn_r50",
}
STUFF = 4
MERGE = {"score_thresh": 0.7, "overlap_thresh": 0.3, "min_stuff_area": 600}
CLASSES, HIDDEN, MASK_CHANNELS, DETECTIONS, PROPOSALS = 5, 64, 32, 20, 200
SIZE, OUTPUT_SIZE = (128, 160), (100, 130)

# Standard deviations with which untrained heads find something and disagree with one another.
SCALES = {"rpn_head": 0.01, "cls_score": 0.05, "bbox_pred": 0.01, "mask_head.predictor": 0.5}

CATEGORIES = Categories(
    Category(i + 1, f"class {i}", isthing=i < CLASSES) for i in range(CLASSES + STUFF)
)


def config(kind):
    """labkit's configuration."""
    preset = PRESETS[KINDS[kind]]
    count = len(preset.roi_heads.mask_channels)
    roi_heads = replace(
        preset.roi_heads,
        representation_size=HIDDEN,
        mask_channels=(MASK_CHANNELS,) * count,
        detections_per_img=DETECTIONS,
        batch_size_per_image=64,
    )
    rpn = replace(preset.rpn, pre_nms_top_n=(PROPOSALS, PROPOSALS), post_nms_top_n=(100, 100))
    return replace(preset, roi_heads=roi_heads, rpn=rpn, **(MERGE if kind == "panoptic" else {}))


def weight(name, shape):
    """The value of a parameter or buffer, by its name in Detectron2's checkpoints."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("norm.weight"):
        value = rng.uniform(0.6, 1.0, shape)
        if "stem" in name:
            value /= 40  # images of 0 to 255 become maps of about unit variance
    elif name.endswith("running_var"):
        value = rng.uniform(0.9, 1.6, shape)
    elif len(shape) == 1:
        value = rng.normal(0, 0.02, shape)
    else:
        scale = (2 / np.prod([shape[0], *shape[2:]])) ** 0.5
        for part, fixed in SCALES.items():
            scale = fixed if part in name else scale
        value = rng.normal(0, scale, shape)
    return torch.from_numpy(value.astype(np.float32))


def image(seed):
    """``(3, H, W)`` uint8 RGB: large random patches with a little noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (3, SIZE[0] // 32, SIZE[1] // 32))
    fine = np.kron(patches, np.ones((1, 32, 32))) + rng.normal(0, 12, (3, *SIZE))
    return torch.from_numpy(fine.clip(0, 255).astype(np.uint8))


def target(seed):
    """A labkit target of four objects with ragged masks."""
    rng = np.random.default_rng(1000 + seed)
    low = rng.integers(0, 60, (4, 2))
    boxes = np.concatenate([low, low + rng.integers(12, 60, (4, 2))], axis=1)
    masks = np.zeros((4, *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) > 0.3
    labels = rng.integers(0, CLASSES, 4)
    semantic = np.kron(rng.integers(0, CLASSES + STUFF, (4, 5)), np.ones((32, 32), np.int64))
    semantic[:, 70:80] = 255
    return {
        "image_id": seed,
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(labels),
        "masks": torch.from_numpy(masks),
        "semantic": torch.from_numpy(semantic),
    }
