"""DETR's losses: bipartite matching of queries and objects, then the losses of the pairs.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1 and
appendix A.2. One query per object: nothing has to be suppressed afterwards.

Letters in shapes: ``B`` images, ``Q`` queries, ``K`` outputs, the last of them "no object", ``n``
objects of an image, ``N`` objects of all images, ``H × W`` the padded batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from labkit.errors import LabkitError
from labkit.models.layers import resize_bilinear
from labkit.models.targets import Segments, segments_of
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import Target
from labkit.system.distributed import sum_over_processes, world_size

Match = tuple[Tensor, Tensor]
"""Indices of an image's queries ``(n,)`` and of the objects ``(n,)`` that they are matched to."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the matching costs and of the losses; the original has the same for both.

    Attributes:
        class_cost, bbox_cost, giou_cost: of the class probability, of the L1 distance and of the
            generalised IoU of boxes.
        eos_coef: of a query without an object in ``loss_ce``: most queries have none.
        mask_loss_coef, dice_loss_coef: of ``loss_mask`` and ``loss_dice``.
    """

    class_cost: float = 1.0
    bbox_cost: float = 5.0
    giou_cost: float = 2.0
    eos_coef: float = 0.1
    mask_loss_coef: float = 1.0
    dice_loss_coef: float = 1.0


@dataclass(frozen=True)
class SetTargets:
    """The set of objects of an image that the queries are trained to predict.

    Attributes:
        classes: ``(n,)`` int64, the index of each object's output.
        boxes: ``(n, 4)`` centre x, centre y, width, height, as fractions of the image's sides.
        masks: ``(n, h, w)`` bool.
        image_id: of the target, for messages.
    """

    classes: Tensor
    boxes: Tensor
    masks: Tensor
    image_id: Any = None


def set_targets(target: Target, label_of: Tensor, panoptic: bool) -> SetTargets:
    """The set of objects of one image (section 4.4: stuff regions are objects too).

    Args:
        target: with ``panoptic`` where stuff is wanted; crowds are left out.
        label_of: ``(K - 1,)``, the label of each output, -1 for none.
        panoptic: with stuff, whose box is the one around all of a class's pixels.

    Raises:
        LabkitError: stuff is wanted and the target has no panoptic map.
    """
    if panoptic:
        segments = segments_of(target, int(label_of.max()) + 1, panoptic)
        labels, masks = segments.classes, segments.masks
        boxes = masks_to_edge_boxes(masks)
    else:
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
    height, width = masks.shape[1:]
    classes = (label_of == labels.reshape(-1, 1)).int().argmax(dim=1)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    sides = boxes.new_tensor([width, height])
    boxes = torch.cat([centre / sides, size / sides], dim=1)
    return SetTargets(classes, boxes, masks, target["image_id"])


@torch.no_grad()
def hungarian_match(
    logits: Tensor, boxes: Tensor, targets: SetTargets, config: LossConfig
) -> Match:
    """The assignment of one image's objects to different queries of lowest cost (equation 1).

    Notebook 08, section 8.2.

    Args:
        logits: ``(Q, K)``.
        boxes: ``(Q, 4)`` as in :class:`SetTargets`.
        targets: n objects; if n > Q, the highest-cost objects stay unmatched.
        config: weights of the costs.

    Raises:
        LabkitError: a cost is not a finite number.
    """
    probability = logits.softmax(dim=-1)[:, targets.classes]  # (Q, n)
    distance = torch.cdist(boxes, targets.boxes, p=1)
    giou = pairwise_giou(boxes, targets.boxes)
    cost = config.bbox_cost * distance - config.class_cost * probability - config.giou_cost * giou
    return assign(cost, targets.image_id)


def assign(cost: Tensor, image_id: Any) -> Match:
    """The assignment of lowest total cost.

    Args:
        cost: ``(Q, n)`` of each query for each object of an image.
        image_id: for messages.

    Raises:
        LabkitError: a cost is not a finite number.
    """
    num_queries, num_objects = cost.shape
    warn_if_too_many(num_objects, num_queries)
    if not bool(cost.isfinite().all()):
        raise LabkitError(
            f"image {image_id}: the predictions are not finite numbers, so that they match nothing;"
            " a smaller learning rate, or gradient clipping, helps as a rule"
        )
    queries, objects = map(torch.from_numpy, linear_sum_assignment(cost.cpu().numpy()))
    return queries.to(cost.device), objects.to(cost.device)


def pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """``(A, B)`` generalised IoU of boxes ``(A, 4)`` and ``(B, 4)`` as in :class:`SetTargets`."""
    return generalized_box_iou(*(box_convert(b, "cxcywh", "xyxy") for b in (boxes, others)))


_warned = set[int]()


def warn_if_too_many(segments: int, queries: int) -> None:
    """Warn, once for a number of queries, of an image with more segments than queries."""
    if segments > queries and queries not in _warned:
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
    targets: Sequence[SetTargets],
    matches: Sequence[Match],
    config: LossConfig,
) -> dict[str, Tensor]:
    """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of one layer (equations 2 and 10).

    Notebook 08, section 8.3.

    Args:
        logits: ``(B, Q, K)``.
        boxes: ``(B, Q, 4)``.
        targets, matches: B each.
        config: weights.
    """
    pred_boxes, gt_boxes = [], []
    for image_boxes, target, (queries, objects) in zip(boxes, targets, matches, strict=True):
        pred_boxes.append(image_boxes[queries])
        gt_boxes.append(target.boxes[objects])
    count = mean_count(targets)
    pred, gt = torch.cat(pred_boxes), torch.cat(gt_boxes)  # (N, 4)
    giou = pairwise_giou(pred, gt).diagonal()
    loss_ce = class_loss(logits, targets, matches, config.eos_coef)
    return {
        "loss_ce": config.class_cost * loss_ce,
        "loss_bbox": config.bbox_cost * F.l1_loss(pred, gt, reduction="sum") / count,
        "loss_giou": config.giou_cost * (1 - giou).sum() / count,
    }


def class_loss(
    logits: Tensor,
    targets: Sequence[SetTargets] | Sequence[Segments],
    matches: Sequence[Match],
    eos_coef: float,
) -> Tensor:
    """Cross-entropy of all queries; the class of those without a match is "no object".

    Args:
        logits: ``(B, Q, K)``.
        targets, matches: B each.
        eos_coef: weight of "no object".
    """
    no_object = logits.shape[2] - 1
    class_targets = torch.full(logits.shape[:2], no_object, device=logits.device)  # (B, Q)
    for i, (queries, objects) in enumerate(matches):
        class_targets[i, queries] = targets[i].classes[objects]
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[no_object] = eos_coef
    return F.cross_entropy(logits.transpose(1, 2), class_targets, weight)


def named_by_layer(losses: dict[str, Tensor], layer: int, num_layers: int) -> dict[str, Tensor]:
    """The losses of a layer with its number at the end of their names; the last has none."""
    if layer == num_layers - 1:
        return losses
    return {f"{name}_{layer}": loss for name, loss in losses.items()}


def mask_losses(
    logits: Tensor, gt_masks: Tensor, count: float, config: LossConfig
) -> dict[str, Tensor]:
    """``loss_mask`` and ``loss_dice`` of the matched queries (section 4.4, appendix A.2).

    Args:
        logits: ``(N, ., .)``; they are upsampled to the ground truth's size.
        gt_masks: ``(N, H, W)`` bool, in the queries' order.
        count: see :func:`mean_count`.
        config: weights.
    """
    large = resize_bilinear(logits[:, None], gt_masks.shape[-2:])
    x, y = large[:, 0].flatten(1), gt_masks.flatten(1).to(large)  # (N, H W)
    return {
        "loss_mask": config.mask_loss_coef * focal_loss(x, y).mean(dim=1).sum() / count,
        "loss_dice": config.dice_loss_coef * dice_loss(x, y).sum() / count,
    }


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss: cross-entropy with less weight for easy pixels, element by element.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = p * (1 - targets) + (1 - p) * targets  # the probability of the wrong class
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * error**gamma * cross_entropy


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss ``(N,)``: one minus the overlap of each mask ``(N, pixels)`` with its target.

    F. Milletari et al., "V-Net", 3DV 2016, section 3, with sums instead of sums of squares and 1
    added above and below.
    """
    p = logits.sigmoid()
    return 1 - (2 * (p * targets).sum(dim=1) + 1) / (p.sum(dim=1) + targets.sum(dim=1) + 1)


def mean_count(targets: Sequence[SetTargets] | Sequence[Segments]) -> float:
    """Number of objects in a process's batch, averaged over all processes; at least 1."""
    count = torch.tensor(float(sum(len(t.classes) for t in targets)))
    return max(float(sum_over_processes(count)) / world_size(), 1.0)
