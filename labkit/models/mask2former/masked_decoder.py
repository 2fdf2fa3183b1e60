"""Mask2Former's decoder: queries that look only inside the masks that they have predicted so far.

B. Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022,
sections 3.2.1 and 3.2.2.

Letters in shapes: ``B`` images, ``Q`` queries, ``D`` channels, ``K`` class logits, the last of
them "no object", ``L`` predictions: one before the first layer and one after each, ``h₄ × w₄`` the
map of stride 4, ``T`` cells of one level, ``M`` heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.layers import MLP, resize_bilinear
from labkit.models.mask2former.pixel_decoder import level_positions


@dataclass(frozen=True)
class MaskedDecoderConfig:
    """Decoder configuration.

    Attributes:
        num_queries: Q.
        layers: number of layers.
        num_heads, dim_feedforward: of each.
        masked: False gives ordinary cross-attention, for comparison.
    """

    num_queries: int = 100
    layers: int = 9
    num_heads: int = 8
    dim_feedforward: int = 2048
    masked: bool = True


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention among the queries, a feed-forward network.

    Cross-attention comes first: at the start the queries are the same for every image, and have
    nothing to tell one another.

    Args:
        d_model: D.
        num_heads: M.
        dim_feedforward: channels between the linear layers.
    """

    def __init__(self, d_model: int, num_heads: int, dim_feedforward: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(d_model, num_heads, batch_first=True)
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, batch_first=True)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)

    def forward(
        self, tgt: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Refine the query features.

        Args:
            tgt: ``(B, Q, D)``, the query features so far.
            query_pos: ``(B, Q, D)``, the query embeddings.
            memory: ``(B, T, D)``, the cells of a level.
            pos: ``(T, D)``, their positions.
            mask: ``(B · M, Q, T)`` bool, True where a query must not look; None: everywhere it may.

        Returns:
            ``(B, Q, D)``.
        """
        attended, _ = self.cross_attn(
            tgt + query_pos, memory + pos, memory, attn_mask=mask, need_weights=False
        )
        tgt = self.norm1(tgt + attended)
        qk = tgt + query_pos
        attended, _ = self.self_attn(qk, qk, tgt, need_weights=False)
        tgt = self.norm2(tgt + attended)
        normalised: Tensor = self.norm3(tgt + self.linear2(F.relu(self.linear1(tgt))))
        return normalised


class MaskedDecoder(nn.Module):
    """Decoder layers that visit the levels in turn, and the heads that predict after each.

    Notebook 10, section 10.3.

    Args:
        config: the configuration.
        d_model: D.
        num_levels: number of memories.
        num_classes: K - 1.
    """

    def __init__(
        self, config: MaskedDecoderConfig, d_model: int, num_levels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.query_feat = nn.Embedding(config.num_queries, d_model)
        self.query_embed = nn.Embedding(config.num_queries, d_model)
        self.level_embed = nn.Embedding(num_levels, d_model)
        self.layers = nn.ModuleList(
            MaskedDecoderLayer(d_model, config.num_heads, config.dim_feedforward)
            for _ in range(config.layers)
        )
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(d_model)
        self.class_embed = nn.Linear(d_model, num_classes + 1)
        self.mask_embed = MLP(d_model, d_model)

    def forward(
        self, mask_features: Tensor, maps: Sequence[Tensor], every_layer: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode the queries.

        Args:
            mask_features: ``(B, D, h₄, w₄)``.
            maps: ``(B, D, h, w)``, the memories, coarse to fine.
            every_layer: L predictions, for the losses; otherwise the last one alone.

        Returns:
            Class logits ``(L, B, Q, K)`` and mask logits ``(L, B, Q, h₄, w₄)``.
        """
        num_levels = len(maps)
        memories = [
            (m + embedding[:, None, None]).flatten(2).transpose(1, 2)  # (B, T, D)
            for m, embedding in zip(maps, self.level_embed.weight, strict=True)
        ]
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        positions = [
            level_positions(size, m.shape[1], m) for size, m in zip(sizes, maps, strict=True)
        ]
        # A dot product with resized features is the resized dot product: both are linear.
        resized = [resize_bilinear(mask_features, size) for size in sizes if self.config.masked]
        query_pos = self.query_embed.weight.expand(len(mask_features), -1, -1)  # (B, Q, D)
        tgt = self.query_feat.weight.expand_as(query_pos)
        outputs = [tgt]
        for i, layer in enumerate(self.layers):
            level = i % num_levels
            mask = None
            if self.config.masked:
                mask = self.attention_mask(tgt, resized[level])
            tgt = layer(tgt, query_pos, memories[level], positions[level], mask)
            outputs.append(tgt)
        normalised = self.norm(
            torch.stack(outputs if every_layer else outputs[-1:])
        )  # (L, B, Q, D)
        class_logits = self.class_embed(normalised)
        mask_logits = torch.einsum("lbqd,bdhw->lbqhw", self.mask_embed(normalised), mask_features)
        return class_logits.float(), mask_logits.float()

    @torch.no_grad()
    def attention_mask(self, tgt: Tensor, features: Tensor) -> Tensor:
        """Where each query must not look: outside of the mask that it predicts now.

        A query whose mask is empty may look everywhere: attention to nothing is not defined.

        Args:
            tgt: ``(B, Q, D)``, the query features so far.
            features: ``(B, D, h, w)``, the mask features at the size of the next level.

        Returns:
            ``(B · M, Q, h · w)`` bool.
        """
        logits = torch.einsum("bqd,bdt->bqt", self.mask_embed(self.norm(tgt)), features.flatten(2))
        outside = logits.float().sigmoid() < 0.5
        outside &= ~outside.all(dim=-1, keepdim=True)
        return outside.repeat_interleave(self.config.num_heads, dim=0)
