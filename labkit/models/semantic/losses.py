"""Semantic segmentation: targets, loss, and label maps.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import Batch, pad_semantic
from labkit.models.targets import require_targets
from labkit.structures import IGNORE, Prediction, Target


def semantic_targets(targets: Sequence[Target], num_classes: int, size: tuple[int, int]) -> Tensor:
    """The ground-truth label of every pixel, ``(B, H, W)``, IGNORE where there is none.

    Args:
        targets: B targets with ``semantic``.
        num_classes: C.
        size: (H, W).

    Raises:
        LabkitError: a target has no ``semantic``, or a label that is no category.
    """
    for target in targets:
        if "semantic" not in target:
            raise LabkitError(
                f"target of image {target['image_id']}: has objects only; this model needs a class"
                " for every pixel"
            )
        labels = target["semantic"]
        wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != IGNORE)]
        if len(wrong):
            raise LabkitError(
                f"target of image {target['image_id']}: semantic label {int(wrong[0])} is neither"
                f" one of the {num_classes} categories nor {IGNORE}"
            )
    return pad_semantic([target["semantic"] for target in targets], size)


def cross_entropy(logits: Tensor, gt_labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 where there are none.

    Args:
        logits: ``(B, K, ...)``.
        gt_labels: ``(B, ...)``, IGNORE where there is no label.
    """
    total = F.cross_entropy(logits, gt_labels, ignore_index=IGNORE, reduction="sum")
    return total / (gt_labels != IGNORE).sum().clamp(min=1)


def semantic_losses(
    logits: Tensor, batch: Batch, targets: Sequence[Target] | None, num_classes: int
) -> dict[str, Tensor]:
    """``loss_sem_seg`` of a semantic network, the mean cross-entropy over the labelled pixels.

    Args:
        logits: ``(B, C, H, W)``.
        batch: for its sizes.
        targets: B targets with ``semantic``.
        num_classes: C.

    Raises:
        LabkitError: there are no targets; see also :func:`semantic_targets`.
    """
    gt_labels = semantic_targets(require_targets(targets), num_classes, batch.padded_size)
    return {"loss_sem_seg": cross_entropy(logits, gt_labels)}


def label_maps(logits: Tensor, batch: Batch) -> list[Prediction]:
    """Predictions with ``semantic``, the label of the largest logit, in the size of each image.

    Args:
        logits: ``(B, C, H, W)``.
        batch: for its sizes.
    """
    predictions = []
    for i, (height, width) in enumerate(batch.input_sizes):
        image_logits = logits[i : i + 1, :, :height, :width]
        if (height, width) != batch.image_sizes[i]:
            image_logits = resize_bilinear(image_logits, batch.image_sizes[i])
        predictions.append(Prediction(semantic=image_logits[0].argmax(dim=0)))
    return predictions
