"""EoMT on one page: a plain vision transformer whose last blocks also see the queries.

T. Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025. Mask2Former has a
pixel decoder and a decoder behind its backbone; with a large pretrained transformer, little of that
is needed. The mask classification, its losses and read-outs are the same.

Read next ``labkit/models/backbones/vit.py``. Letters in shapes: ``B`` images, ``Q`` queries, ``D``
channels, ``N`` tokens of the transformer (class token, registers, patches), ``h × w`` mask logits
at stride 4, ``K`` class logits, the last of them "no object", ``L`` predictions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.backbones.vit import EPSILON, ViT, ViTConfig
from labkit.models.layers import resize_bilinear
from labkit.models.mask2former.criterion import MaskLossConfig, mask_classification_losses
from labkit.models.mask2former.postprocess import InferenceConfig, MaskOutput, mask_predictions
from labkit.models.preprocess import EOMT_PREPROCESSING, Batch, Preprocessing, preprocess
from labkit.models.targets import batch_segments
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class EoMTConfig:
    """EoMT configuration.

    Attributes:
        vit: the transformer.
        query_blocks: last blocks that see the queries.
        num_queries: Q.
        preprocessing: of the images.
        loss: weights and points.
        inference: thresholds.
    """

    vit: ViTConfig
    query_blocks: int
    num_queries: int = 200
    preprocessing: Preprocessing = EOMT_PREPROCESSING
    loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def build(self, categories: Categories) -> EoMT:
        """A model with fresh weights."""
        return EoMT(self, categories)


class EoMT(nn.Module):
    """Encoder-only mask transformer.

    T. Kerssies et al., CVPR 2025.

    Notebook 10, section 10.9.

    Attention is masked in training only, as in Mask2Former, and less and less:
    ``attn_mask_probs`` is the probability, for each of the last blocks, that a query is masked. The
    original takes it from 1 to 0 in the course of the training as (1 - progress)^0.9, earlier
    blocks first, so that the trained network is a plain transformer. ``labkit train`` does not: who
    trains a fresh model changes it from step to step. Published weights have zeros.

    Args:
        config: the configuration.
        categories: things and stuff.
    """

    def __init__(self, config: EoMTConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        width = config.vit.width
        self.backbone = ViT(config.vit, config.vit.depth - config.query_blocks)
        self.q = nn.Embedding(config.num_queries, width)
        self.class_head = nn.Linear(width, len(categories) + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        doublings = max(1, int(math.log2(config.vit.patch_size)) - 2)  # patches of 16 to stride 4
        self.upscale = nn.Sequential(*(ScaleBlock(width) for _ in range(doublings)))
        self.attn_mask_probs: Tensor
        self.register_buffer("attn_mask_probs", torch.ones(config.query_blocks))

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
            LabkitError: an image of another type or, in training, larger than the transformer's
                square, or targets that do not fit the categories.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: Tensor, batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last prediction and, with its number
        at the end, of each before."""
        segments = batch_segments(targets, batch, self.categories, panoptic=True)
        class_logits, mask_logits = self.decode(features, masked=True)
        return mask_classification_losses(class_logits, mask_logits, segments, self.config.loss)

    def predict(self, features: Tensor, batch: Batch) -> MaskOutput:
        """Classes and masks of the queries, from the tokens of the first blocks."""
        class_logits, mask_logits = self.decode(features, masked=False)
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

    def decode(self, tokens: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
        """Run the last blocks with the queries before all tokens.

        Args:
            tokens: ``(B, N, D)``.
            masked: mask the attention, and predict before each block too.

        Returns:
            Class logits ``(L, B, Q, K)`` and mask logits ``(L, B, Q, h, w)`` at stride 4.
        """
        x = torch.cat([self.q.weight.expand(len(tokens), -1, -1), tokens], dim=1)
        outputs = []
        for i, block in enumerate(self.backbone.blocks[self.backbone.stop :]):
            allowed = None
            if masked:
                outputs.append(self.heads(x))
                allowed = self.attention_mask(outputs[-1][1], x.shape[1], self.attn_mask_probs[i])
            x = block(x, allowed)
        outputs.append(self.heads(x))
        class_logits, mask_logits = zip(*outputs, strict=True)
        return torch.stack(class_logits).float(), torch.stack(mask_logits).float()

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(B, Q, K)`` and mask logits ``(B, Q, h, w)`` of tokens with queries."""
        x = self.backbone.norm(x)
        grid, num_queries = self.config.vit.grid, self.config.num_queries
        queries, patches = x[:, :num_queries], x[:, -(grid**2) :]
        features = self.upscale(patches.transpose(1, 2).unflatten(2, (grid, grid)))
        mask_logits = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries), features)
        return self.class_head(queries), mask_logits

    @torch.no_grad()
    def attention_mask(self, mask_logits: Tensor, num_tokens: int, probability: Tensor) -> Tensor:
        """Where attention is allowed: a masked query sees only the patches of its own mask.

        Args:
            mask_logits: ``(B, Q, h, w)``.
            num_tokens: Q + N.
            probability: that a query is masked.

        Returns:
            ``(B, 1, Q + N, Q + N)`` bool, True where attention is allowed: the opposite of the
            decoder's in ``masked_decoder.py``.
        """
        num_images, num_queries = mask_logits.shape[:2]
        grid = self.config.vit.grid
        coarse = resize_bilinear(mask_logits, (grid, grid))
        # Never at a probability of 1, always at 0.
        unmasked = torch.rand(num_images, num_queries, 1, device=coarse.device) >= probability
        allowed = torch.ones(
            num_images, 1, num_tokens, num_tokens, dtype=torch.bool, device=coarse.device
        )
        allowed[:, 0, :num_queries, -(grid**2) :] = (coarse.flatten(2) > 0) | unmasked
        return allowed


class ScaleBlock(nn.Module):
    """Twice the size: a transposed convolution, then a depthwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, h, w)`` to ``(B, D, 2 h, 2 w)``."""
        x = self.conv2(F.gelu(self.conv1(x)))
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)
