"""DeepLab: dilated (atrous) convolution keeps the map fine while the view stays wide.

L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation" (DeepLabv3+), ECCV 2018, section 3. The backbone's late stages trade stride for
dilation; the head looks at the result with several dilation rates at once (atrous spatial pyramid
pooling); a small decoder sharpens the outlines with a map of stride 4. Convolutions are ordinary
ones: at this size separable ones save no time. Without the decoder it is DeepLabv3 (Chen et al.,
"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017), without ASPP as well a
dilated FCN.

Letters in shapes: ``B`` images, ``C`` classes, ``H × W`` the padded batch, ``s`` the output stride,
``K`` channels of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.models.backbones.tiny_resnet import StandardConv2d, TinyResNet, group_norm
from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import LABKIT_PREPROCESSING, Batch, Preprocessing, preprocess
from labkit.models.semantic.losses import label_maps, semantic_losses
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class DeepLabConfig:
    """DeepLab configuration.

    Attributes:
        widths, blocks: of the backbone's stages.
        output_stride: s.
        rates: dilation of ASPP's 3 × 3 branches, in cells of the output stride; None leaves ASPP
            out.
        channels: K, of ASPP and of the decoder.
        skip_channels: of the stride-4 map in the decoder; few, because the deep features shall
            lead. None leaves the decoder out.
        preprocessing: of the images.
    """

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    output_stride: int
    rates: tuple[int, ...] | None
    channels: int
    skip_channels: int | None
    preprocessing: Preprocessing = LABKIT_PREPROCESSING

    def build(self, categories: Categories) -> DeepLab:
        """A model with fresh weights."""
        return DeepLab(self, categories)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one view per rate, a 1 × 1 view and the image's mean.

    Args:
        in_channels: of the feature map.
        channels: K of each branch and of the result.
        rates: dilation of the 3 × 3 branches.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        views = [StandardConv2d(in_channels, channels, 1)]
        views += [StandardConv2d(in_channels, channels, 3, dilation=rate) for rate in rates]
        self.views = nn.ModuleList(_with_norm(view) for view in views)
        self.image = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, channels, 1), nn.ReLU(inplace=True)
        )
        self.project = _with_norm(StandardConv2d((len(views) + 1) * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, K, h, w)``."""
        branches = [view(x) for view in self.views]  # each (B, K, h, w)
        branches.append(self.image(x).expand_as(branches[0]))  # (B, K, 1, 1) over the map
        return self.project(torch.cat(branches, dim=1))


class DeepLab(nn.Module):
    """DeepLabv3+: a dilated backbone, ASPP, a decoder, a 1 × 1 score layer.

    L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation", ECCV 2018. Notebook 01, section 1.3.

    Args:
        config: the configuration.
        categories: the classes.
    """

    def __init__(self, config: DeepLabConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = TinyResNet(config.widths, config.blocks, config.output_stride)
        channels = self.backbone.channels["res5"]
        self.aspp: nn.Module | None = None
        if config.rates is not None:
            self.aspp = ASPP(channels, config.channels, config.rates)
            channels = config.channels
        self.skip: nn.Module | None = None
        self.decoder: nn.Module | None = None
        if config.skip_channels is not None:
            fine = self.backbone.channels["res2"]
            self.skip = _with_norm(StandardConv2d(fine, config.skip_channels, 1))
            joined = channels + config.skip_channels
            self.decoder = _with_norm(StandardConv2d(joined, config.channels, 3))
            channels = config.channels
        self.score = nn.Conv2d(channels, len(categories), 1)

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
        x = features["res5"]  # (B, c5, H/s, W/s)
        if self.aspp is not None:
            x = self.aspp(x)  # (B, K, H/s, W/s)
        if self.skip is not None and self.decoder is not None:
            detail = self.skip(features["res2"])  # (B, skip, H/4, W/4)
            x = torch.cat([resize_bilinear(x, detail.shape[2:]), detail], dim=1)
            x = self.decoder(x)  # (B, K, H/4, W/4)
        return resize_bilinear(self.score(x).float(), batch.padded_size)  # (B, C, H, W)

    def postprocess(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """Predictions with ``semantic`` ``(h, w)`` from logits ``(B, C, H, W)``."""
        return label_maps(logits, batch)


def _with_norm(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, group_norm(conv.out_channels), nn.ReLU(inplace=True))
