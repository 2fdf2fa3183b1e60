"""Targets that a network is trained with: checks, and segments of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.preprocess import Batch
from labkit.ops.boxes import larger_than
from labkit.structures import Categories, Target
from labkit.system.message_text import counted


def require_targets(targets: Sequence[Target] | None) -> Sequence[Target]:
    """Return the targets of a batch, without which a model in training mode has no losses.

    Raises:
        LabkitError: there are none.
    """
    if targets is None:
        raise LabkitError("targets are needed in training mode; call model.eval() to predict")
    return targets


def check_targets(targets: Sequence[Target] | None, num_classes: int) -> Sequence[Target]:
    """Return the targets; refuse what would make a loss meaningless or infinite.

    Args:
        targets: of a batch.
        num_classes: number of thing classes.

    Raises:
        LabkitError: there are none, boxes have no area or are not finite, labels are outside the
            things, or the numbers of boxes, labels and masks differ.
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


def segments_of(target: Target, num_classes: int, panoptic: bool) -> Segments:
    """Return the segments of a target that have pixels.

    Mask2Former's panoptic training keeps segments that a crop emptied, as masks of zeros; here they
    are dropped, as in its instance training and in EoMT.

    Args:
        target: with ``panoptic`` where stuff is wanted; crowds are left out.
        num_classes: labels are below it.
        panoptic: things and stuff, of which each class is one segment; otherwise things alone.

    Raises:
        LabkitError: stuff is wanted and the target has no panoptic map, or a label is none of the
            classes.
    """
    where = f"target of image {target['image_id']}"
    if panoptic:
        if "panoptic" not in target:
            raise LabkitError(
                f"{where}: this model finds stuff too and needs panoptic maps; take a data set that"
                " has them, such as coco_panoptic:DIR"
            )
        ids, segments = target["panoptic"].ids, target["panoptic"].segments
        segments = [s for s in segments if not s.iscrowd]
        segment_ids = torch.tensor([s.id for s in segments], dtype=ids.dtype, device=ids.device)
        masks = ids == segment_ids[:, None, None]  # (n, H, W)
        labels = torch.tensor([s.label for s in segments], dtype=torch.int64, device=ids.device)
    else:
        labels, masks = target["labels"], target["masks"]
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        raise LabkitError(
            f"{where}: label {int(labels[outside][0])} of a segment is not one of the"
            f" {num_classes} categories; build the model with this data set's categories"
        )
    visible = masks.flatten(1).any(dim=1)
    return Segments(target["image_id"], labels[visible], masks[visible])


def batch_segments(
    targets: Sequence[Target] | None, batch: Batch, categories: Categories, panoptic: bool
) -> list[Segments]:
    """Return the segments of every image of a batch, padded as the batch is.

    Args:
        targets: of the batch's images.
        batch: for its sizes.
        categories: things and stuff.
        panoptic: as in :func:`segments_of`.

    Raises:
        LabkitError: as :func:`check_targets` and :func:`segments_of`, or the targets have other
            sizes than the images, or are not as many.
    """
    num_things = len(categories.things)
    targets = check_targets(targets, num_things)
    if len(targets) != len(batch.input_sizes):
        raise LabkitError(
            f"{counted(len(batch.input_sizes), 'image')} but {counted(len(targets), 'target')}"
        )
    num_classes = len(categories) if panoptic else num_things
    found = []
    for target, size in zip(targets, batch.input_sizes, strict=True):
        segments = segments_of(target, num_classes, panoptic)
        if tuple(segments.masks.shape[1:]) != tuple(size):
            raise LabkitError(
                f"target of image {segments.image_id}: masks of"
                f" {tuple(segments.masks.shape[1:])} pixels, but the image has {tuple(size)};"
                " transform both together"
            )
        found.append(segments.padded(batch.padded_size))
    return found
