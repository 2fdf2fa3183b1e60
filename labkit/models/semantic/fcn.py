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

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import LABKIT_PREPROCESSING, Batch, Preprocessing, preprocess
from labkit.models.semantic.losses import label_maps, semantic_losses
from labkit.structures import Categories, Prediction, Target

SKIPS = {32: (), 16: ("res4",), 8: ("res4", "res3")}
"""Stages whose scores FCN-32s, FCN-16s and FCN-8s add, coarse to fine."""


@dataclass(frozen=True)
class FCNConfig:
    """FCN configuration.

    Attributes:
        widths, blocks: of the backbone's stages.
        stride: of the finest scores: 32 (no skips), 16 or 8, the paper's FCN-32s, FCN-16s, FCN-8s.
        preprocessing: of the images.
    """

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    stride: int
    preprocessing: Preprocessing = LABKIT_PREPROCESSING

    def build(self, categories: Categories) -> FCN:
        """A model with fresh weights."""
        return FCN(self, categories)


class FCN(nn.Module):
    """Fully convolutional network: a backbone, one 1 × 1 score layer per stage, their sum.

    J. Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015. Notebook
    01, section 1.2.

    Args:
        config: the configuration.
        categories: the classes.
    """

    def __init__(self, config: FCNConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = TinyResNet(config.widths, config.blocks)
        self.score = nn.Conv2d(self.backbone.channels["res5"], len(categories), 1)
        self.skips = nn.ModuleDict()
        for name in SKIPS[config.stride]:
            skip = nn.Conv2d(self.backbone.channels[name], len(categories), 1)
            # The paper starts its skips at zero: the coarse prediction first, details on top.
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)  # type: ignore[arg-type]
            self.skips[name] = skip

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, h, w)`` uint8 RGB.
            targets: B targets with ``semantic``; in training mode only.

        Returns:
            Training: :meth:`losses`. Evaluation: B predictions with ``semantic`` ``(h, w)``.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_sem_seg``, the mean cross-entropy over the labelled pixels."""
        logits = self.predict(features, batch)
        return semantic_losses(logits, batch, targets, len(self.categories))

    def predict(self, features: dict[str, Tensor], batch: Batch) -> Tensor:
        """Logits ``(B, C, H, W)`` from the backbone's feature maps."""
        scores = self.score(features["res5"])  # (B, C, H/32, W/32)
        for name, skip in self.skips.items():
            finer = skip(features[name])  # (B, C, H/16, W/16), then (B, C, H/8, W/8)
            scores = resize_bilinear(scores, finer.shape[2:]) + finer
        return resize_bilinear(scores.float(), batch.padded_size)  # (B, C, H, W)

    def postprocess(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """Predictions with ``semantic`` ``(h, w)`` from logits ``(B, C, H, W)``."""
        return label_maps(logits, batch)
