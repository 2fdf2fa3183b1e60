"""MaskFormer on one page: segments as a set of classes and masks, the smallest network for it.

B. Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021. Written from the paper. A query has a class and a vector, and its mask is the dot product of
the vector with the features of each pixel. The queries see the coarsest map alone, all of it;
Mask2Former's see three maps, and only inside their masks.

Read next ``criterion.py``, ``postprocess.py`` and, for the transformer, ``../detr/transformer.py``.
Letters in shapes: ``B`` images, ``Q`` queries, ``D`` channels, ``K`` class logits, the last of them
"no object", ``L`` layers of the decoder, ``h × w`` the coarsest map, ``h₄ × w₄`` the finest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.detr.transformer import Transformer
from labkit.models.layers import MLP, xavier_conv
from labkit.models.mask2former.criterion import (
    MASKFORMER_LOSS,
    MaskLossConfig,
    mask_classification_losses,
)
from labkit.models.mask2former.postprocess import InferenceConfig, MaskOutput, mask_predictions
from labkit.models.preprocess import Batch, Preprocessing, preprocess
from labkit.models.targets import batch_segments
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class MaskFormerConfig:
    """MaskFormer configuration.

    Attributes:
        preprocessing: of the images.
        backbone: residual network.
        levels: its feature maps, coarse to fine; the queries attend to the first.
        d_model: D.
        groups: of the group norms.
        num_queries: Q.
        decoder_layers, num_heads, dim_feedforward, dropout: of
            :class:`~labkit.models.detr.transformer.Transformer`.
        loss: weights.
        inference: thresholds.
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    levels: tuple[str, ...] = ("res5", "res4", "res3", "res2")
    d_model: int = 256
    groups: int = 32
    num_queries: int = 100
    decoder_layers: int = 6
    num_heads: int = 8
    dim_feedforward: int = 2048
    dropout: float = 0.1
    loss: MaskLossConfig = MASKFORMER_LOSS
    inference: InferenceConfig = field(default_factory=lambda: InferenceConfig(inside_mask=False))

    def build(self, categories: Categories) -> MaskFormer:
        """A model with fresh weights."""
        return MaskFormer(self, categories)


class MaskFormer(nn.Module):
    """MaskFormer: panoptic, instance and semantic segmentation by one set of masks.

    B. Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
    NeurIPS 2021.

    Notebook 10, section 10.2.

    Args:
        config: the configuration.
        categories: things and stuff.
    """

    def __init__(self, config: MaskFormerConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = config.backbone.build()
        channels = [self.backbone.channels[name] for name in config.levels]
        self.pixel_decoder = FPNPixelDecoder(channels, config.d_model, config.groups)
        self.input_proj = nn.Conv2d(channels[0], config.d_model, 1)
        self.transformer = Transformer(
            0,  # the paper's panoptic models have 6 layers of an encoder, the others none
            config.decoder_layers,
            config.d_model,
            config.num_heads,
            config.dim_feedforward,
            config.dropout,
        )
        self.query_embed = nn.Embedding(config.num_queries, config.d_model)
        self.class_embed = nn.Linear(config.d_model, len(categories) + 1)
        self.mask_embed = MLP(config.d_model, config.d_model)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, height, width)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels``, ``masks`` and ``panoptic``; in training
                mode only.

        Returns:
            Training: :meth:`losses`. Evaluation: :meth:`postprocess`.

        Raises:
            LabkitError: an image of another type, or targets that do not fit the categories.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer and, with the layer's
        number at the end, of those before."""
        segments = batch_segments(targets, batch, self.categories, panoptic=True)
        class_logits, mask_logits = self.decode(features, every_layer=True)
        return mask_classification_losses(class_logits, mask_logits, segments, self.config.loss)

    def predict(self, features: dict[str, Tensor], batch: Batch) -> MaskOutput:
        """Classes and masks of the queries, from the backbone's feature maps."""
        class_logits, mask_logits = self.decode(features, every_layer=False)
        return MaskOutput(class_logits[-1], mask_logits[-1])

    def postprocess(
        self, output: MaskOutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Predictions in pixels of the original images.

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: queries at or below it do not enter the panoptic map; None: the
                configuration's.
        """
        return mask_predictions(
            output, batch, self.categories, self.config.inference, score_thresh=score_thresh
        )

    def decode(self, features: dict[str, Tensor], every_layer: bool) -> tuple[Tensor, Tensor]:
        """Pixel decoder, transformer decoder, and both heads.

        Args:
            features: the backbone's maps by name.
            every_layer: L predictions, for the losses; otherwise the last one alone.

        Returns:
            Class logits ``(L, B, Q, K)`` and mask logits ``(L, B, Q, h₄, w₄)``.
        """
        maps = [features[name] for name in self.config.levels]
        mask_features = self.pixel_decoder(maps)
        memory = self.input_proj(maps[0])
        no_padding = torch.zeros_like(memory[:, 0], dtype=torch.bool)
        x, _ = self.transformer(memory, no_padding, self.query_embed.weight)  # (L, B, Q, D)
        if not every_layer:
            x = x[-1:]
        mask_logits = torch.einsum("lbqd,bdhw->lbqhw", self.mask_embed(x), mask_features)
        return self.class_embed(x).float(), mask_logits.float()


class FPNPixelDecoder(nn.Module):
    """A feature pyramid that returns its finest map, the features of each pixel.

    Args:
        channels: of the backbone's maps, coarse to fine.
        d_model: D.
        groups: of the group norms.
    """

    def __init__(self, channels: Sequence[int], d_model: int, groups: int) -> None:
        super().__init__()

        def output(inputs: int) -> nn.Sequential:
            conv = xavier_conv(inputs, d_model, 3, bias=False)
            return nn.Sequential(conv, nn.GroupNorm(groups, d_model), nn.ReLU())

        coarsest, *finer = channels
        self.laterals = nn.ModuleList(
            nn.Sequential(xavier_conv(c, d_model, 1, bias=False), nn.GroupNorm(groups, d_model))
            for c in finer
        )
        self.outputs = nn.ModuleList(output(c) for c in (coarsest, *([d_model] * len(finer))))
        self.mask_features = xavier_conv(d_model, d_model, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, channels, ., .)``, coarse to fine, to ``(B, D, h₄, w₄)``."""
        x = self.outputs[0](maps[0])
        for lateral, output, finer in zip(self.laterals, self.outputs[1:], maps[1:], strict=True):
            fine = lateral(finer)
            x = output(fine + F.interpolate(x, fine.shape[-2:], mode="nearest"))
        features: Tensor = self.mask_features(x)
        return features
