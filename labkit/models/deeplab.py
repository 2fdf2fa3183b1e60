"""DeepLab: dilated (atrous) convolution keeps the map fine while the view stays wide.

L.-C. Chen et al., "DeepLab", TPAMI 2018, and "Rethinking Atrous Convolution for Semantic Image
Segmentation" (DeepLabv3), 2017, section 3. The backbone's late stages trade stride for dilation;
the head looks at the result with several dilation rates at once (atrous spatial pyramid pooling).

Letters in shapes: ``B`` images, ``C`` classes, ``H × W`` the padded batch, ``s`` the output stride,
``K`` channels of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.models.resnet import StandardConv2d, TinyResNet, group_norm
from labkit.models.semantic import SemanticModel, upsample
from labkit.structures import Categories


@dataclass(frozen=True)
class DeepLabConfig:
    """Settings of a :class:`DeepLab`."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    output_stride: int
    rates: tuple[int, ...]  # dilation of the 3 × 3 branches, in cells of the output stride
    channels: int  # K

    def build(self, categories: Categories) -> DeepLab:
        backbone = TinyResNet(self.widths, self.blocks, self.output_stride)
        return DeepLab(backbone, len(categories), self.rates, self.channels)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one view per rate, a 1 × 1 view and the image's mean.

    Args:
        inputs: channels of the feature map.
        channels: K of each branch and of the result.
        rates: dilation of the 3 × 3 branches.
    """

    def __init__(self, inputs: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        views = [StandardConv2d(inputs, channels, 1)]
        views += [StandardConv2d(inputs, channels, 3, dilation=rate) for rate in rates]
        self.views = nn.ModuleList(
            nn.Sequential(view, group_norm(channels), nn.ReLU(inplace=True)) for view in views
        )
        self.image = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True)
        )
        self.project = nn.Sequential(
            StandardConv2d((len(views) + 1) * channels, channels, 1),
            group_norm(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, K, h, w)``."""
        branches = [view(x) for view in self.views]  # each (B, K, h, w)
        branches.append(self.image(x).expand_as(branches[0]))  # (B, K, 1, 1) over the map
        return self.project(torch.cat(branches, dim=1))


class DeepLab(SemanticModel):
    """A dilated backbone, ASPP, a 1 × 1 score layer and bilinear enlarging.

    Args:
        backbone: its ``res5`` has the output stride s.
        num_classes: C.
        rates, channels: of :class:`ASPP`.
    """

    def __init__(
        self, backbone: TinyResNet, num_classes: int, rates: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels["res5"], channels, rates)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        features = self.aspp(self.backbone(x)["res5"])  # (B, K, H/s, W/s)
        return upsample(self.score(features), x.shape)  # (B, C, H, W)
