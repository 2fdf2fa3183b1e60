"""UPSNet's semantic head: one deformable subnet, shared by all pyramid levels.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.1,
"Semantic Segmentation Head". Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``D``
channels of the maps, ``c`` channels of the subnet, ``E`` = levels × c, ``C`` categories.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.layers import resize_bilinear
from labkit.ops.deform_conv import deform_conv2d


@dataclass(frozen=True)
class DeformableHeadConfig:
    """Semantic head configuration.

    Attributes:
        levels: feature maps, finest first.
        widths: channels after each deformable convolution.
        group_norm: a GroupNorm of 16 channels a group after each, for training from scratch; the
            published models have none.
    """

    levels: tuple[str, ...]
    widths: tuple[int, ...] = (256, 128, 128)
    group_norm: bool = False


class DeformableHead(nn.Module):
    """One subnet for all levels; their maps are upsampled, stacked and classified.

    Notebook 05, section 5.2.

    Args:
        in_channels: D.
        num_classes: C.
        config: the configuration.
    """

    def __init__(self, in_channels: int, num_classes: int, config: DeformableHeadConfig) -> None:
        super().__init__()
        self.levels = config.levels
        widths = (in_channels, *config.widths)
        self.subnet = nn.Sequential(
            *(DeformConv(a, b, config.group_norm) for a, b in itertools.pairwise(widths))
        )
        self.score = nn.Conv2d(len(config.levels) * widths[-1], num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.bias)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps ``(B, D, h, w)`` by level name to logits ``(B, C, H/4, W/4)``."""
        maps = [self.subnet(features[name]) for name in self.levels]  # (B, c, h, w) each
        size = maps[0].shape[2:]
        maps = [maps[0], *(resize_bilinear(x, size) for x in maps[1:])]
        logits: Tensor = self.score(torch.cat(maps, dim=1))  # of (B, E, H/4, W/4)
        return logits


class DeformConv(nn.Module):
    """A 3 × 3 deformable convolution with its offsets, and a ReLU.

    The offsets come from a plain convolution of the same input, and start at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, group_norm: bool) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 2 * 9, 3, padding=1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not group_norm)
        self.norm = nn.GroupNorm(out_channels // 16, out_channels) if group_norm else nn.Identity()
        nn.init.zeros_(self.offset.weight)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        for bias in (self.offset.bias, self.conv.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        y = deform_conv2d(x, self.offset(x), self.conv.weight, self.conv.bias, padding=(1, 1))
        return F.relu(self.norm(y), inplace=True)
