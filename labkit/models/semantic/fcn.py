"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s.

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR
2015, sections 3 and 4. A classifier becomes a segmenter when its last layer is a 1 × 1 convolution;
its answer is then a coarse map, here 32 times smaller than the image. The skips of FCN-16s and
FCN-8s add the scores of earlier, finer stages before the map is enlarged. Two things differ from
the paper: the backbone is residual, and the enlarging is bilinear instead of a learned
deconvolution that starts as bilinear.

Letters in shapes: ``B`` images, ``C`` classes, ``H × W`` the padded batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.semantic.semantic_model import SemanticModel, upsample
from labkit.structures import Categories

SKIPS = {32: (), 16: ("res4",), 8: ("res4", "res3")}
"""Stages whose scores FCN-32s, FCN-16s and FCN-8s add, coarse to fine."""


@dataclass(frozen=True)
class FCNConfig:
    """Settings of an :class:`FCN`."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    stride: int  # of the finest scores: 32 (no skips), 16 or 8

    def build(self, categories: Categories) -> FCN:
        return FCN(TinyResNet(self.widths, self.blocks), len(categories), self.stride)


class FCN(SemanticModel):
    """A backbone, one 1 × 1 score layer per used stage, and the sum of the enlarged scores.

    Args:
        backbone: returns ``res3``, ``res4`` and ``res5`` of stride 8, 16 and 32.
        num_classes: C.
        stride: 32, 16 or 8, the paper's FCN-32s, FCN-16s, FCN-8s.
    """

    def __init__(self, backbone: TinyResNet, num_classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.score = nn.Conv2d(backbone.channels["res5"], num_classes, 1)
        self.skips = nn.ModuleDict()
        for name in SKIPS[stride]:
            skip = nn.Conv2d(backbone.channels[name], num_classes, 1)
            # The paper starts its skips at zero: the coarse prediction first, details on top.
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)  # type: ignore[arg-type]
            self.skips[name] = skip

    def logits(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        scores = self.score(features["res5"])  # (B, C, H/32, W/32)
        for name, skip in self.skips.items():
            finer = skip(features[name])  # (B, C, H/16, W/16), then (B, C, H/8, W/8)
            scores = upsample(scores, finer.shape) + finer
        return upsample(scores.float(), x.shape)  # (B, C, H, W)
