"""The semantic branch of Panoptic FPN: all pyramid levels at stride 4, added up.

A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.1 and figure 3.
Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``D`` channels of the maps, ``c``
channels of the branch, ``C`` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

COMMON_STRIDE = 4


@dataclass(frozen=True)
class SemanticFPNConfig:
    """Semantic branch configuration.

    Attributes:
        levels: feature maps, finest first.
        channels: c, a multiple of four.
        merge_things: one output for all things together, since the other branch tells them apart
            (section 3.1); else one for each, and the branch alone segments semantically.
    """

    levels: tuple[str, ...]
    channels: int = 128
    merge_things: bool = True


class SemanticFPN(nn.Module):
    """Convolutions and upsampling to stride 4 on each level, their sum, one 1 × 1 classifier.

    Notebook 04, section 4.3.

    Args:
        in_channels: D.
        strides: pixels per cell, by level name; powers of two from 4 on.
        num_outputs: C.
        config: the configuration.
    """

    def __init__(
        self,
        in_channels: int,
        strides: Mapping[str, int],
        num_outputs: int,
        config: SemanticFPNConfig,
    ) -> None:
        super().__init__()
        self.levels = config.levels
        for name in config.levels:
            doublings = int(math.log2(strides[name] // COMMON_STRIDE))
            tower: list[nn.Module] = [ConvGroupNorm(in_channels, config.channels)]
            for i in range(doublings):
                if i > 0:
                    tower.append(ConvGroupNorm(config.channels, config.channels))
                tower.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.add_module(name, nn.Sequential(*tower))
        self.predictor = nn.Conv2d(config.channels, num_outputs, 1)
        nn.init.kaiming_normal_(self.predictor.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps ``(B, D, h, w)`` by level name to logits ``(B, C, H/4, W/4)``."""
        first, *others = self.levels
        x: Tensor = self.get_submodule(first)(features[first])  # (B, c, H/4, W/4)
        for name in others:
            x = x + self.get_submodule(name)(features[name])
        logits: Tensor = self.predictor(x)
        return logits


class ConvGroupNorm(nn.Conv2d):
    """A 3 × 3 convolution, a GroupNorm with four channels a group, and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.GroupNorm(out_channels // 4, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(super().forward(x)), inplace=True)
