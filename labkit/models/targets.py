"""Targets that a network is trained with: checks, and segments of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.ops.boxes import larger_than
from labkit.structures import Target
from labkit.system.message_text import counted


def require_targets(targets: Sequence[Target] | None) -> Sequence[Target]:
    """Return the targets of a batch, without which a model in training mode has no losses.

    Raises:
        ValueError: there are none.
    """
    if targets is None:
        raise ValueError("targets are needed in training mode; call model.eval() first?")
    return targets


def check_targets(targets: Sequence[Target] | None, num_classes: int) -> Sequence[Target]:
    """Return the targets; refuse what would make a loss meaningless or infinite.

    Args:
        targets: of a batch.
        num_classes: number of thing classes.

    Raises:
        ValueError: there are none.
        LabkitError: boxes without area or not finite, labels outside the things, or numbers of
            boxes, labels and masks that differ.
    """
    targets = require_targets(targets)
    for target in targets:
        where = f"target of image {target['image_id']}"
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise LabkitError(
                f"{where}: boxes must be (N, 4) and labels (N,), "
                f"got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if len(target["masks"]) != len(labels):
            raise LabkitError(
                f"{where}: {counted(len(labels), 'label')} but"
                f" {counted(len(target['masks']), 'mask')}"
            )
        invalid = ~(boxes.isfinite().all(dim=1) & larger_than(boxes, 0.0))
        if bool(invalid.any()):
            i = int(invalid.nonzero()[0])
            raise LabkitError(
                f"{where}: box {i} {boxes[i].tolist()} has no area; drop objects without pixels"
            )
        outside = (labels < 0) | (labels >= num_classes)
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            raise LabkitError(
                f"{where}: label {int(labels[i])} of object {i} is not one of the {num_classes}"
                " thing classes; build the model with this data set's categories"
            )
    return targets


@dataclass(frozen=True)
class Segments:
    """The segments of an image, for a network that predicts them as a set.

    Attributes:
        image_id: of the target, for messages.
        classes: ``(n,)`` int64 labels.
        masks: ``(n, H, W)`` bool, none of them empty.
    """

    image_id: Any
    classes: Tensor
    masks: Tensor

    def padded(self, size: tuple[int, int]) -> Segments:
        """The same in an image that is padded at the bottom and right to (H, W)."""
        height, width = self.masks.shape[1:]
        masks = F.pad(self.masks, (0, size[1] - width, 0, size[0] - height))
        return Segments(self.image_id, self.classes, masks)


def segments_of(target: Target, panoptic: bool) -> Segments:
    """Return the segments of a target that have pixels.

    Args:
        target: with ``panoptic`` where stuff is wanted; crowds are left out.
        panoptic: things and stuff, of which each class is one segment; otherwise things alone.

    Raises:
        LabkitError: stuff is wanted and the target has no panoptic map.
    """
    if panoptic:
        if "panoptic" not in target:
            raise LabkitError(
                f"target of image {target['image_id']}: this model finds stuff too and needs"
                " panoptic maps; take a data set that has them, such as coco_panoptic:DIR"
            )
        ids, segments = target["panoptic"].ids, target["panoptic"].segments
        segments = [s for s in segments if not s.iscrowd]
        segment_ids = torch.tensor([s.id for s in segments], dtype=ids.dtype, device=ids.device)
        masks = ids == segment_ids[:, None, None]  # (n, H, W)
        labels = torch.tensor([s.label for s in segments], dtype=torch.int64, device=ids.device)
    else:
        labels, masks = target["labels"], target["masks"]
    visible = masks.flatten(1).any(dim=1)
    return Segments(target["image_id"], labels[visible], masks[visible])
