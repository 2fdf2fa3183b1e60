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
from labkit.models.upsnet.panoptic_head import panoptic_logits, windows_of
from labkit.models.upsnet.postprocess import STRIDE
from labkit.structures import IGNORE, Target


def labels_in_boxes(truth: Tensor, boxes: Sequence[Tensor], side: int) -> Tensor:
    """The label at the middle of every bin of every box.

    Args:
        truth: ``(B, H, W)``.
        boxes: ``(n, 4)`` for each image.
        side: bins along a side of a box.

    Returns:
        ``(objects of all images, side, side)``.
    """
    middle = (torch.arange(side, device=truth.device) + 0.5) / side
    parts = []
    for labels, of_image in zip(truth, boxes, strict=True):
        low, size = of_image[:, :2], of_image[:, 2:] - of_image[:, :2]
        at = (low[:, :, None] + size[:, :, None] * middle).long()  # (n, 2, side) x before y
        x, y = at[:, 0].clamp(0, labels.shape[1] - 1), at[:, 1].clamp(0, labels.shape[0] - 1)
        parts.append(labels[y[:, :, None], x[:, None, :]])
    return torch.cat(parts)


def panoptic_truth(
    semantic: Tensor, masks: Tensor, kept: Tensor, things: int, classes: int
) -> Tensor:
    """Which of the logits of ``panoptic_logits`` should win each pixel.

    Objects that are not among ``kept`` are unknown, and so is every other thing without an object
    (crowds).

    Args:
        semantic: ``(H, W)`` labels.
        masks: ``(n, H, W)`` bool.
        kept: indices of the objects that have a logit.
        things, classes: T and C.

    Returns:
        ``(H, W)``: stuff 0 to S - 1, objects from S on, then unknown; IGNORE as it was.
    """
    stuff = classes - things
    unknown = stuff + max(len(kept), 1)
    truth = torch.where(semantic < things, unknown, semantic - things)
    truth = truth.masked_fill(semantic == IGNORE, IGNORE)
    for i, mask in enumerate(masks[kept]):
        truth = truth.masked_fill(mask & (semantic < things), stuff + i)
    return truth


def with_box(count: int, held_back: float) -> Tensor:
    """Which objects of an image keep their box in the panoptic loss.

    A share of them is held back, so that the network sees objects without a box, as it will when
    the detector misses some, and learns to call them unknown.

    Args:
        count: objects of the image.
        held_back: share of them; at least one is kept.

    Returns:
        ``(kept,)`` indices in rising order, drawn from torch's generator.
    """
    number = max(int((1 - held_back) * count), min(count, 1))
    return torch.randperm(count)[:number].sort().values


def panoptic_loss(
    scores: Tensor, semantic: Tensor, target: Target, kept: Tensor, mask_logits: Tensor, things: int
) -> Tensor:
    """Cross-entropy of the panoptic logits of one image, made from true boxes.

    Args:
        scores: ``(C, h, w)`` semantic logits.
        semantic: ``(H, W)`` labels.
        target: with ``boxes`` ``(n, 4)``, ``labels`` and ``masks`` ``(n, ., .)`` of the image.
        kept: ``(n',)`` indices of the objects that have a logit.
        mask_logits: ``(n', m, m)`` of their true class in their true boxes.
        things: T.
    """
    windows = windows_of(target["boxes"][kept], (scores.shape[1], scores.shape[2]), 1 / STRIDE)
    logits = panoptic_logits(
        scores, things, target["labels"][kept], mask_logits, windows
    )  # (S + n' + 1, h, w)
    # Every fourth pixel: the nearest one.
    small = semantic[::STRIDE, ::STRIDE]
    of_objects = target["masks"][:, ::STRIDE, ::STRIDE]
    masks = torch.zeros((len(of_objects), *small.shape), dtype=torch.bool, device=scores.device)
    masks[:, : of_objects.shape[1], : of_objects.shape[2]] = of_objects
    truth = panoptic_truth(small, masks, kept, things, len(scores))
    return cross_entropy(logits[None], truth[None])
