"""The loss of mask classification: match queries and segments, then compare their masks.

MaskFormer compares all pixels, with focal loss: B. Cheng et al., "Per-Pixel Classification is Not
All You Need for Semantic Segmentation", NeurIPS 2021, section 3.2. Mask2Former compares random
points, with cross-entropy: B. Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022, section 3.2.3; the points are PointRend's (A. Kirillov et al., CVPR 2020,
section 3.1).

Letters in shapes: ``B`` images, ``Q`` queries, ``K`` class logits, the last of them "no object",
``L`` predictions, ``n`` segments of an image, ``N`` matched queries of all images, ``h × w`` mask
logits, ``H × W`` targets, ``P`` points, or all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.models.detr.criterion import (
    Match,
    assign,
    class_loss,
    dice_loss,
    focal_loss,
    mean_count,
    named_by_layer,
)
from labkit.models.layers import resize_bilinear
from labkit.models.targets import Segments


@dataclass(frozen=True)
class MaskLossConfig:
    """Loss weights, also used as matching costs; the defaults are Mask2Former's.

    Attributes:
        class_weight, mask_weight, dice_weight: of classification, binary cross-entropy and dice.
        eos_coef: weight of the class "no object" in ``loss_ce``.
        focal: focal loss in place of binary cross-entropy (MaskFormer).
        num_points: P, sampled points of each mask; None for all pixels: those of the prediction in
            matching, those of the target in the losses.
        oversample: so many times P candidates are drawn for each mask.
        importance: fraction of P that is taken from the most uncertain candidates; the rest are
            new uniform points.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    eos_coef: float = 0.1
    focal: bool = False
    num_points: int | None = 12544
    oversample: int = 3
    importance: float = 0.75


MASKFORMER_LOSS = MaskLossConfig(
    class_weight=1.0, mask_weight=20.0, dice_weight=1.0, focal=True, num_points=None
)
"""MaskFormer's weights for panoptic segmentation."""


def mask_classification_losses(
    class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Segments], config: MaskLossConfig
) -> dict[str, Tensor]:
    """``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last prediction and, with its number at
    the end, of each before.

    Each prediction has its own matching and its own points.

    Args:
        class_logits: ``(L, B, Q, K)``.
        mask_logits: ``(L, B, Q, h, w)``.
        targets: B, with masks ``(n, H, W)`` of the padded size.
        config: weights and points.
    """
    num_layers = len(class_logits)
    count = mean_count(targets)
    losses: dict[str, Tensor] = {}
    # Unbound once: the gradient of each `mask_logits[layer]` would be a whole tensor of zeros.
    predictions = list(zip(class_logits.unbind(), mask_logits.unbind(), strict=True))
    # The last prediction first: the original's order of random draws, so that equal seeds give
    # equal losses.
    for layer in (num_layers - 1, *range(num_layers - 1)):
        classes, masks = predictions[layer]
        matches = [
            match_segments(image_classes, image_masks, image_targets, config)
            for image_classes, image_masks, image_targets in zip(
                classes, masks, targets, strict=True
            )
        ]
        layer_losses = matched_losses(classes, masks, targets, matches, count, config)
        losses |= named_by_layer(layer_losses, layer, num_layers)
    return losses


@torch.no_grad()
def match_segments(
    class_logits: Tensor, mask_logits: Tensor, targets: Segments, config: MaskLossConfig
) -> Match:
    """The assignment of one image's segments to different queries of lowest cost.

    Notebook 10, section 10.5.

    Args:
        class_logits: ``(Q, K)``.
        mask_logits: ``(Q, h, w)``.
        targets: n segments; if n > Q, the ones of highest cost stay unmatched.
        config: weights of the costs.

    Raises:
        LabkitError: a cost is not a number.
    """
    # In float32 whatever the autocast: a sum over 12,544 points can exceed float16's range.
    with torch.autocast(class_logits.device.type, enabled=False):
        x, y = values_to_match(mask_logits.float(), targets.masks.float(), config)
        class_cost = -class_logits.float().softmax(dim=-1)[:, targets.classes]  # (Q, n)
        mask_cost = mask_costs(x, y, config)
        p = x.sigmoid()
        dice_cost = 1 - (2 * p @ y.T + 1) / (p.sum(dim=1)[:, None] + y.sum(dim=1) + 1)
        cost = (
            config.class_weight * class_cost
            + config.mask_weight * mask_cost
            + config.dice_weight * dice_cost
        )
    return assign(cost, targets.image_id)


def matched_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Segments],
    matches: Sequence[Match],
    count: float,
    config: MaskLossConfig,
) -> dict[str, Tensor]:
    """``loss_ce``, ``loss_mask`` and ``loss_dice`` of one prediction.

    Notebook 10, section 10.5.

    Args:
        class_logits: ``(B, Q, K)``.
        mask_logits: ``(B, Q, h, w)``.
        targets, matches: B each.
        count: see :func:`labkit.models.detr.criterion.mean_count`.
        config: weights and points.
    """
    loss_ce = class_loss(class_logits, targets, matches, config.eos_coef)
    images = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches)])  # (N,)
    masks = mask_logits[images, torch.cat([queries for queries, _ in matches])]  # (N, h, w)
    gt_masks = torch.cat(
        [t.masks[s] for t, (_, s) in zip(targets, matches, strict=True)]
    ).float()  # (N, H, W)
    x, y = values_to_train(masks, gt_masks, config)
    return {
        "loss_ce": config.class_weight * loss_ce,
        "loss_mask": config.mask_weight * mask_loss(x, y, config).mean(dim=1).sum() / count,
        "loss_dice": config.dice_weight * dice_loss(x, y).sum() / count,
    }


def mask_loss(logits: Tensor, targets: Tensor, config: MaskLossConfig) -> Tensor:
    """Binary cross-entropy or focal loss of every point."""
    if config.focal:
        return focal_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def mask_costs(x: Tensor, y: Tensor, config: MaskLossConfig) -> Tensor:
    """Mean of :func:`mask_loss` for every pair: ``(Q, P)`` and ``(n, P)`` to ``(Q, n)``.

    One matrix product: to what all points would cost outside of the mask, those inside of it add
    the difference. Of cross-entropy this is the logit.
    """
    if config.focal:
        outside = focal_loss(x, torch.zeros_like(x))
        difference = focal_loss(x, torch.ones_like(x)) - outside
    else:
        outside, difference = F.softplus(x), -x
    return (outside.sum(dim=1, keepdim=True) + difference @ y.T) / x.shape[1]


def values_to_match(
    mask_logits: Tensor, gt_masks: Tensor, config: MaskLossConfig
) -> tuple[Tensor, Tensor]:
    """Values ``(Q, P)`` and ``(n, P)`` of masks ``(Q, h, w)`` and ``(n, H, W)`` at the same places.

    At one set of random points for all pairs; or at all pixels of the prediction, to which the
    target is downsampled.
    """
    if config.num_points is None:
        small = F.interpolate(gt_masks[:, None], mask_logits.shape[1:], mode="nearest")
        return mask_logits.flatten(1), small.flatten(1)
    points = torch.rand(1, config.num_points, 2, device=mask_logits.device)
    return sample_points(mask_logits, points), sample_points(gt_masks, points)


def values_to_train(
    mask_logits: Tensor, gt_masks: Tensor, config: MaskLossConfig
) -> tuple[Tensor, Tensor]:
    """Values ``(N, P)`` of pairs of masks, ``(N, h, w)`` and ``(N, H, W)``.

    At random points, each mask's own; or at all pixels of the target, to which the prediction is
    upsampled.
    """
    if config.num_points is None:
        large = resize_bilinear(mask_logits[:, None], gt_masks.shape[1:])
        return large.flatten(1), gt_masks.flatten(1)
    points = uncertain_points(mask_logits.detach(), config.num_points, config)
    return sample_points(mask_logits, points), sample_points(gt_masks, points)


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, num_points: int, config: MaskLossConfig) -> Tensor:
    """Draw points, most of them where a mask is undecided: where its logit is near 0.

    Notebook 10, section 10.5.

    Args:
        mask_logits: ``(N, h, w)``.
        num_points: P.
        config: how many candidates, and which share of the points is chosen of them.

    Returns:
        ``(N, P, 2)`` x and y as fractions of the image's sides.
    """
    num_masks = len(mask_logits)
    drawn = torch.rand(num_masks, config.oversample * num_points, 2, device=mask_logits.device)
    num_uncertain = int(config.importance * num_points)
    certainty = sample_points(mask_logits, drawn).abs()
    chosen = certainty.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    uniform = torch.rand(num_masks, num_points - num_uncertain, 2, device=mask_logits.device)
    return torch.cat([drawn.gather(1, chosen[..., None].expand(-1, -1, 2)), uniform], dim=1)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate maps ``(N, h, w)`` bilinearly at points; zero outside.

    Args:
        maps: N of them.
        points: ``(N, P, 2)``, each map's own, or ``(1, P, 2)``, the same of all.

    Returns:
        ``(N, P)``.
    """
    if len(maps) == 0:
        return maps.new_zeros(0, points.shape[1])
    grid = 2 * points[:, None] - 1
    if len(points) == 1:  # the maps as channels of one: where a point lies is computed once
        return F.grid_sample(maps[None], grid, align_corners=False)[0, :, 0]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]
