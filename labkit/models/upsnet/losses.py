"""The losses that UPSNet adds to those of Mask R-CNN.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.2: the
semantic loss for all pixels, once more for the objects' boxes alone, and the panoptic loss.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``h × w`` one quarter of it, ``C``
categories (things first), ``T`` of them things, ``S = C - T``, ``n`` objects, ``m`` side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.models.semantic.losses import cross_entropy
from labkit.models.upsnet.panoptic_argmax import STRIDE
from labkit.models.upsnet.panoptic_head import panoptic_logits, windows_of
from labkit.structures import IGNORE, Target


def crop_labels(gt_labels: Tensor, boxes: Sequence[Tensor], resolution: int) -> Tensor:
    """Label targets of boxes: the label at the centre of every bin.

    Args:
        gt_labels: ``(B, H, W)``.
        boxes: ``(n, 4)`` for each image.
        resolution: bins along a side of a box.

    Returns:
        ``(objects of all images, resolution, resolution)``.
    """
    centres = (torch.arange(resolution, device=gt_labels.device) + 0.5) / resolution
    parts = []
    for labels, image_boxes in zip(gt_labels, boxes, strict=True):
        low, size = image_boxes[:, :2], image_boxes[:, 2:] - image_boxes[:, :2]
        at = (low[:, :, None] + size[:, :, None] * centres).long()  # (n, 2, resolution) x before y
        x, y = at[:, 0].clamp(0, labels.shape[1] - 1), at[:, 1].clamp(0, labels.shape[0] - 1)
        parts.append(labels[y[:, :, None], x[:, None, :]])
    return torch.cat(parts)


def panoptic_targets(
    gt_labels: Tensor, masks: Tensor, known: Tensor, num_things: int, num_classes: int
) -> Tensor:
    """Panoptic targets: the index of the logit of ``panoptic_logits`` that should win each pixel.

    Objects that are not among ``known`` are unknown, and so is every other thing without an object
    (crowds).

    Args:
        gt_labels: ``(H, W)``.
        masks: ``(n, H, W)`` bool.
        known: indices of the objects that have a logit.
        num_things, num_classes: T and C.

    Returns:
        ``(H, W)``: stuff 0 to S - 1, objects from S on, then unknown; IGNORE as it was.
    """
    num_stuff = num_classes - num_things
    unknown = num_stuff + max(len(known), 1)
    targets = torch.where(gt_labels < num_things, unknown, gt_labels - num_things)
    targets = targets.masked_fill(gt_labels == IGNORE, IGNORE)
    for i, mask in enumerate(masks[known]):
        targets = targets.masked_fill(mask & (gt_labels < num_things), num_stuff + i)
    return targets


def sample_known(count: int, unknown_ratio: float) -> Tensor:
    """Sample the objects of an image that have a box in the panoptic loss.

    The others have none, as when the detector misses some, so that the network learns to call such
    pixels unknown.

    Args:
        count: objects of the image.
        unknown_ratio: share of them without a box; at least one has one.

    Returns:
        ``(known,)`` indices in rising order, drawn from torch's generator.
    """
    number = max(int((1 - unknown_ratio) * count), min(count, 1))
    return torch.randperm(count)[:number].sort().values


def panoptic_loss(
    sem_seg_logits: Tensor,
    gt_labels: Tensor,
    target: Target,
    known: Tensor,
    mask_logits: Tensor,
    num_things: int,
) -> Tensor:
    """Cross-entropy of the panoptic logits of one image, made from ground-truth boxes.

    Notebook 05, section 5.4.

    Args:
        sem_seg_logits: ``(C, h, w)``.
        gt_labels: ``(H, W)``.
        target: with ``boxes`` ``(n, 4)``, ``labels`` and ``masks`` ``(n, ., .)`` of the image.
        known: ``(n',)`` indices of the objects that have a logit.
        mask_logits: ``(n', m, m)`` of their ground-truth class in their ground-truth boxes.
        num_things: T.
    """
    windows = windows_of(
        target["boxes"][known], (sem_seg_logits.shape[1], sem_seg_logits.shape[2]), 1 / STRIDE
    )
    logits = panoptic_logits(
        sem_seg_logits, num_things, target["labels"][known], mask_logits, windows
    )  # (S + n' + 1, h, w)
    # Every fourth pixel: the nearest one.
    small = gt_labels[::STRIDE, ::STRIDE]
    small_masks = target["masks"][:, ::STRIDE, ::STRIDE]
    masks = torch.zeros((len(small_masks), *small.shape), dtype=torch.bool, device=logits.device)
    masks[:, : small_masks.shape[1], : small_masks.shape[2]] = small_masks
    targets = panoptic_targets(small, masks, known, num_things, len(sem_seg_logits))
    return cross_entropy(logits[None], targets[None])
