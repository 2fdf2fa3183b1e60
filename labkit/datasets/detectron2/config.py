"""Detectron2 configuration of a data set: class counts, learning rate, schedule and limits."""

from __future__ import annotations

from typing import Any, Literal

from labkit.errors import LabkitError
from labkit.structures import IGNORE, Categories, Category

Task = Literal["panoptic", "instance", "semantic"]

EPOCHS = 36
"""Epochs of Detectron2's "3x" schedule: 270,000 steps of 16 of COCO's 118,287 images."""
DROPS = (7 / 9, 25 / 27)
"""Fractions of that schedule at which the learning rate is divided by ten: 210,000 and 250,000
steps."""
RATE = 0.02 / 16
"""Learning rate per image of a step (linear scaling rule of Goyal et al., 2017)."""
STUFF_AREA = 4096 / (480 * 640)
"""Smallest stuff region that the panoptic merge keeps, as a share of a COCO image."""


def sorted_labels(categories: Categories, task: Task) -> list[int]:
    """Labels in the order of the classes of Detectron2's semantic head: by category id.

    For "panoptic", class 0 stands for all things together; the first thing represents it here.
    """
    stuff = sorted(categories.stuff, key=lambda label: int(categories[label].id))
    if task == "panoptic":
        return [0, *stuff]
    return sorted(range(len(categories)), key=lambda label: int(categories[label].id))


def metadata_of(categories: Categories, task: Task) -> dict[str, Any]:
    """Build Detectron2's metadata of the classes: names, colours and ids.

    Raises:
        LabkitError: the task is panoptic and the data has no things or no stuff.
    """
    things = sorted((categories[k] for k in categories.things), key=lambda c: c.id)
    stuff = sorted((categories[k] for k in categories.stuff), key=lambda c: c.id)
    found: dict[str, Any] = {"ignore_label": IGNORE}
    if task == "panoptic" and not (things and stuff):
        lacks = "stuff" if things else "things"
        raise LabkitError(f"the data has no {lacks}; a panoptic model needs things and stuff")
    if task != "semantic":
        found["thing_classes"] = [c.name for c in things]
        found["thing_colors"] = [_color(c) for c in things]
        found["thing_dataset_id_to_contiguous_id"] = {c.id: k for k, c in enumerate(things)}
    if task == "semantic":
        every = sorted(categories, key=lambda c: c.id)
        found["stuff_classes"] = [c.name for c in every]
        found["stuff_colors"] = [_color(c) for c in every]
        found["stuff_dataset_id_to_contiguous_id"] = {c.id: k for k, c in enumerate(every)}
    if task == "panoptic":
        found["stuff_classes"] = ["things", *(c.name for c in stuff)]
        found["stuff_colors"] = [[128, 128, 128], *(_color(c) for c in stuff)]
        # Class 0 stands for all things; no category has the id 0.
        contiguous = {0: 0} | {c.id: k for k, c in enumerate(stuff, start=1)}
        found["stuff_dataset_id_to_contiguous_id"] = contiguous
    return found


def _color(category: Category) -> list[int]:
    assert category.color is not None  # Categories gives each one
    return list(category.color)


def config_of(
    task: Task,
    metadata: dict[str, Any],
    length: int,
    area: float,
    polygons: bool,
    depth: int,
    batch_size: int,
    epochs: float,
) -> dict[str, Any]:
    """Build the configuration: every setting that differs from Detectron2's defaults.

    Args:
        task: the task to train.
        metadata: the result of :func:`metadata_of`.
        length: number of training images.
        area: pixels of a typical image.
        polygons: whether all objects are polygons.
        depth, batch_size, epochs: as in
            :func:`labkit.datasets.detectron2.export.export_detectron2`.
    """
    steps = max(1, round(epochs * length / batch_size))
    levels = ["p2", "p3", "p4", "p5"]
    model: dict[str, Any] = {
        "META_ARCHITECTURE": {
            "panoptic": "PanopticFPN",
            "instance": "GeneralizedRCNN",
            "semantic": "SemanticSegmentor",
        }[task],
        "MASK_ON": task != "semantic",
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": depth, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
    }
    if task != "semantic":
        model |= {
            "ANCHOR_GENERATOR": {
                "SIZES": [[32], [64], [128], [256], [512]],
                "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            },
            "RPN": {
                "IN_FEATURES": [*levels, "p6"],
                "PRE_NMS_TOPK_TRAIN": 2000,
                "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": 1000,
                "POST_NMS_TOPK_TEST": 1000,
            },
            "ROI_HEADS": {
                "NAME": "StandardROIHeads",
                "IN_FEATURES": levels,
                "NUM_CLASSES": len(metadata["thing_classes"]),
            },
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
            "ROI_MASK_HEAD": {
                "NAME": "MaskRCNNConvUpsampleHead",
                "NUM_CONV": 4,
                "POOLER_RESOLUTION": 14,
            },
        }
    if task != "instance":
        model["SEM_SEG_HEAD"] = {"NUM_CLASSES": len(metadata["stuff_classes"])}
    if task == "panoptic":
        model["SEM_SEG_HEAD"]["LOSS_WEIGHT"] = 0.5
        limit = round(STUFF_AREA * area)
        model["PANOPTIC_FPN"] = {"COMBINE": {"STUFF_AREA_LIMIT": limit}}
    return {
        "VERSION": 2,
        "MODEL": model,
        "INPUT": {
            "MASK_FORMAT": "polygon" if polygons else "bitmask",
            "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
        },
        "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": task == "instance"},
        "SOLVER": {
            "IMS_PER_BATCH": batch_size,
            "BASE_LR": RATE * batch_size,
            "MAX_ITER": steps,
            "STEPS": sorted({max(1, round(share * steps)) for share in DROPS} - {steps}),
            "WARMUP_ITERS": min(1000, steps // 10),
        },
    }
