"""DETR's losses: first which query answers for which object, then how well it does.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1 and
appendix A.2. One query for one object: nothing has to be suppressed afterwards.

Letters in shapes: ``B`` images, ``Q`` queries, ``K`` outputs, the last of them "no object", ``n``
objects of an image, ``N`` objects of all images, ``H × W`` the padded batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from labkit.system.distributed import sum_over_processes, world_size

Match = tuple[Tensor, Tensor]
"""Queries ``(n,)`` of an image and the objects ``(n,)`` that they answer for."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the costs and of the losses, which the original has the same.

    Attributes:
        classes, box, giou: of the class's probability, of the L1 distance and of the generalised
            IoU of boxes.
        no_object: of a query without an object in ``loss_ce``: most queries have none.
        focal, dice: of the masks.
    """

    classes: float = 1.0
    box: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1
    focal: float = 1.0
    dice: float = 1.0


@dataclass(frozen=True)
class Objects:
    """What is to be found in an image.

    Attributes:
        outputs: ``(n,)`` int64, which of the outputs is right.
        boxes: ``(n, 4)`` centre x, centre y, width, height, as shares of the image's sides.
        masks: ``(n, h, w)`` bool.
    """

    outputs: Tensor
    boxes: Tensor
    masks: Tensor


def corners(boxes: Tensor) -> Tensor:
    """``(..., 4)`` centre x, centre y, width, height to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, objects: Objects, config: LossConfig) -> Match:
    """The cheapest assignment of one image's objects to different queries (equation 1).

    Args:
        logits: ``(Q, K)``.
        boxes: ``(Q, 4)`` as in :class:`Objects`.
        objects: n of them; beyond Q the dearest ones stay without a query.
        config: weights of the costs.
    """
    if len(objects.outputs) > len(boxes):
        _warn_once(len(objects.outputs), len(boxes))
    probability = logits.softmax(dim=-1)[:, objects.outputs]  # (Q, n)
    distance = torch.cdist(boxes, objects.boxes, p=1)
    overlap = generalized_box_iou(corners(boxes), corners(objects.boxes))
    cost = config.box * distance - config.classes * probability - config.giou * overlap
    queries, which = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries, device=boxes.device), torch.as_tensor(
        which, device=boxes.device
    )


_warned = set[int]()


def _warn_once(segments: int, queries: int) -> None:
    if queries not in _warned:
        _warned.add(queries)
        warnings.warn(
            f"an image has {segments} segments, the model {queries} queries: what finds no query "
            "is not learnt; train a model with more queries, at least as many as an image has "
            "segments",
            stacklevel=2,
        )


def set_losses(
    logits: Tensor,
    boxes: Tensor,
    objects: Sequence[Objects],
    matches: Sequence[Match],
    config: LossConfig,
) -> dict[str, Tensor]:
    """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of one layer's answers (equations 2 and 10).

    Args:
        logits: ``(B, Q, K)``.
        boxes: ``(B, Q, 4)``.
        objects, matches: B each.
        config: weights.
    """
    truth = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)  # (B, Q)
    found, right = [], []
    for i, (of_image, (queries, which)) in enumerate(zip(objects, matches, strict=True)):
        truth[i, queries] = of_image.outputs[which]
        found.append(boxes[i, queries])
        right.append(of_image.boxes[which])
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[-1] = config.no_object
    count = mean_count(objects)
    a, b = torch.cat(found), torch.cat(right)  # (N, 4)
    overlap = generalized_box_iou(corners(a), corners(b)).diagonal()
    return {
        "loss_ce": config.classes * F.cross_entropy(logits.transpose(1, 2), truth, weight),
        "loss_bbox": config.box * F.l1_loss(a, b, reduction="sum") / count,
        "loss_giou": config.giou * (1 - overlap).sum() / count,
    }


def mask_losses(
    logits: Tensor, truth: Tensor, count: float, config: LossConfig
) -> dict[str, Tensor]:
    """``loss_mask`` and ``loss_dice`` of the matched queries (section 4.4, appendix A.2).

    Args:
        logits: ``(N, ., .)``; they are enlarged to the truth's size.
        truth: ``(N, H, W)`` bool, in the queries' order.
        count: see :func:`mean_count`.
        config: weights.
    """
    large = F.interpolate(logits[:, None], truth.shape[-2:], mode="bilinear", align_corners=False)
    x, y = large[:, 0].flatten(1), truth.flatten(1).to(large)  # (N, H W)
    return {
        "loss_mask": config.focal * focal_loss(x, y).mean(dim=1).sum() / count,
        "loss_dice": config.dice * dice_loss(x, y).sum() / count,
    }


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy with less weight for what is right already, element by element.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = p * (1 - truth) + (1 - p) * truth  # the probability of the other answer
    share = alpha * truth + (1 - alpha) * (1 - truth)
    return share * wrong**gamma * cross_entropy


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the overlap of each mask ``(N, pixels)`` with its truth, ``(N,)``.

    F. Milletari et al., "V-Net", 3DV 2016, section 3, with sums instead of sums of squares and 1
    added above and below.
    """
    p = logits.sigmoid()
    return 1 - (2 * (p * truth).sum(dim=1) + 1) / (p.sum(dim=1) + truth.sum(dim=1) + 1)


def mean_count(objects: Sequence[Objects]) -> float:
    """Objects of a process's batch, averaged over all processes; at least 1."""
    count = torch.tensor(float(sum(len(o.outputs) for o in objects)))
    return max(float(sum_over_processes(count)) / world_size(), 1.0)
