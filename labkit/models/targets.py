"""Checks of the targets that a detector is trained with."""

from __future__ import annotations

from collections.abc import Sequence

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
