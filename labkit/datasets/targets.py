"""Building the training target of an image from its panoptic map; used by all readers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import Categories, Detections, Panoptic, Target

MOST_MASK_BYTES = 4 * 2**30
"""Limit of an image's masks, one byte a pixel and object, before memory runs out."""


class SegmentationDataset(Protocol):
    """Interface of all labkit data sets."""

    categories: Categories

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Target]: ...


def require_memory(objects: int, size: tuple[int, ...], where: str) -> None:
    """Refuse an image whose objects' masks would take more than :data:`MOST_MASK_BYTES`.

    Raises:
        LabkitError: the masks would take more.
    """
    needed = objects * size[0] * size[1]
    if needed > MOST_MASK_BYTES:
        raise LabkitError(
            f"{where}: {objects:,} objects on {size[0]} x {size[1]} pixels need"
            f" {needed / 2**30:.0f} GiB of masks, more than {MOST_MASK_BYTES / 2**30:.0f}; cut the"
            " image into smaller ones"
        )


def target_from_panoptic(panoptic: Panoptic, categories: Categories, image_id: int | str) -> Target:
    """Build the target of a panoptic map: its objects, boxes and semantic map.

    Objects are the thing segments in their order, except crowd regions. ``panoptic`` is on the CPU
    and lists the segments of its map, no others.
    """
    things = [s for s in panoptic.segments if s.label in categories.things and not s.iscrowd]
    ids = panoptic.ids.numpy()
    require_memory(len(things), ids.shape, f"image {image_id}")
    thing_ids = np.array([s.id for s in things], np.int32)
    masks = torch.from_numpy(ids == thing_ids[:, None, None])  # (N, H, W)
    return {
        "image_id": image_id,
        "boxes": masks_to_edge_boxes(masks),
        "labels": torch.tensor([s.label for s in things], dtype=torch.int64),
        "masks": masks,
        "semantic": panoptic.semantic(),
        "panoptic": panoptic,
    }


def annotation_of(target: Target) -> Panoptic | Detections:
    """Annotation to draw over an image: the panoptic map, or the objects if there is none."""
    if "panoptic" in target:
        return target["panoptic"]
    scores = torch.ones(len(target["labels"]))
    return Detections(target["boxes"], scores, target["labels"], target["masks"])
