"""Multi-level RoIAlign: features for boxes of every size, from the pyramid level that fits it.

T.-Y. Lin et al., "Feature Pyramid Networks", CVPR 2017, section 4.2. Letters in shapes: ``K`` boxes
of all images, ``D`` channels, ``s`` resolution of the pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.ops.roi_align import roi_align
from labkit.ops.roi_arguments import boxes_to_rois


@dataclass(frozen=True)
class PoolerConfig:
    """RoI pooling configuration.

    Attributes:
        levels: feature maps to pool from, finest first.
        canonical_box_size: side in pixels of the boxes that belong to level ``canonical_level``.
        canonical_level: index into ``levels``.
        epsilon_inside: where the guard against rounding is added: to the ratio before the logarithm
            (Detectron2), or to the result (torchvision); it decides boxes right at a border.
        epsilon: the guard.
        aligned, sampling_ratio: of RoIAlign.
        plus_one: boxes go from pixel to pixel, and bins end at the last pixel's coordinate instead
            of its far edge (:mod:`labkit.ops.boxes`).
    """

    levels: tuple[str, ...]
    canonical_box_size: float = 224.0
    canonical_level: int = 2
    epsilon_inside: bool = True
    epsilon: float = 1e-8
    aligned: bool = True
    sampling_ratio: int = 0
    plus_one: bool = False


def pool(
    features: dict[str, Tensor],
    boxes: Sequence[Tensor],
    strides: dict[str, int],
    resolution: int,
    config: PoolerConfig,
) -> Tensor:
    """Pool every box from the level of its size.

    Notebook 03, section 3.2.

    Args:
        features: ``(B, D, h, w)`` by level name.
        boxes: ``(k, 4)`` for each image, in pixels.
        strides: pixels per cell, by level name.
        resolution: s.
        config: levels and sampling.

    Returns:
        ``(K, D, s, s)``, image by image.
    """
    rois = boxes_to_rois(boxes)  # (K, 5)
    level = assign_level(rois[:, 1:], config)
    if config.plus_one:
        rois = rois - rois.new_tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    parts, order = [], []
    for i, name in enumerate(config.levels):
        index = (level == i).nonzero()[:, 0]
        pooled = roi_align(
            features[name],
            rois[index],
            resolution,
            spatial_scale=1.0 / strides[name],
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
        )
        parts.append(pooled)
        order.append(index)
    back = torch.cat(order).argsort()
    return torch.cat(parts)[back]


def assign_level(boxes: Tensor, config: PoolerConfig) -> Tensor:
    """Index of the level of each box ``(K, 4)`` (equation 1): one up per doubled side."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ratio = (width * height).sqrt() / config.canonical_box_size
    if config.epsilon_inside:
        level = torch.floor(config.canonical_level + torch.log2(ratio + config.epsilon))
    else:
        level = torch.floor(config.canonical_level + torch.log2(ratio) + config.epsilon)
    return level.clamp(0, len(config.levels) - 1).long()
