"""DeepLab: dilated (atrous) convolution keeps the map fine while the view stays wide.

L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation" (DeepLabv3+), ECCV 2018, section 3. The backbone's late stages trade stride for
dilation; the head looks at the result with several dilation rates at once (atrous spatial pyramid
pooling); a small decoder sharpens the outlines with a map of stride 4. Convolutions are ordinary
ones: at this size separable ones save no time.

Letters in shapes: ``B`` images, ``C`` classes, ``H × W`` the padded batch, ``s`` the output stride,
``K`` channels of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.models.backbones.tiny_resnet import StandardConv2d, TinyResNet, group_norm
from labkit.models.semantic.semantic_model import SemanticModel, upsample
from labkit.structures import Categories


@dataclass(frozen=True)
class DeepLabConfig:
    """Settings of a :class:`DeepLab`."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    output_stride: int
    rates: tuple[int, ...]  # dilation of the 3 × 3 branches, in cells of the output stride
    channels: int  # K
    skip_channels: int  # of the stride-4 map, few: the deep features shall lead

    def build(self, categories: Categories) -> DeepLab:
        backbone = TinyResNet(self.widths, self.blocks, self.output_stride)
        return DeepLab(backbone, len(categories), self.rates, self.channels, self.skip_channels)


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
        self.views = nn.ModuleList(_normalised(view) for view in views)
        self.image = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True)
        )
        self.project = _normalised(StandardConv2d((len(views) + 1) * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, K, h, w)``."""
        branches = [view(x) for view in self.views]  # each (B, K, h, w)
        branches.append(self.image(x).expand_as(branches[0]))  # (B, K, 1, 1) over the map
        return self.project(torch.cat(branches, dim=1))


class DeepLab(SemanticModel):
    """A dilated backbone, ASPP, the decoder, a 1 × 1 score layer and bilinear enlarging.

    Args:
        backbone: its ``res5`` has the output stride s, its ``res2`` stride 4.
        num_classes: C.
        rates, channels: of :class:`ASPP`.
        skip_channels: to which ``res2`` is reduced before it joins.
    """

    def __init__(
        self,
        backbone: TinyResNet,
        num_classes: int,
        rates: Sequence[int],
        channels: int,
        skip_channels: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels["res5"], channels, rates)
        self.skip = _normalised(StandardConv2d(backbone.channels["res2"], skip_channels, 1))
        self.decoder = _normalised(StandardConv2d(channels + skip_channels, channels, 3))
        self.score = nn.Conv2d(channels, num_classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        context = self.aspp(features["res5"])  # (B, K, H/s, W/s)
        detail = self.skip(features["res2"])  # (B, skip, H/4, W/4)
        both = torch.cat(
            [upsample(context, detail.shape), detail], dim=1
        )  # (B, K + skip, H/4, W/4)
        return upsample(self.score(self.decoder(both)).float(), x.shape)  # (B, C, H, W)


def _normalised(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, group_norm(conv.out_channels), nn.ReLU(inplace=True))
