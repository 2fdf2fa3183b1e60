"""DETR's transformer: an encoder of the map's cells, a decoder of the object queries.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.2 and
appendix A.3 to A.4. Unlike a language model's, positions are added in every layer, to queries and
keys only, not to values.

Letters in shapes: ``B`` images, ``D`` channels, ``h × w`` the map, ``T = h · w`` its cells, ``Q``
object queries, ``L`` layers of the decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sine_positions(padding: Tensor, channels: int, temperature: float = 10_000.0) -> Tensor:
    """Sine position encoding of every cell (appendix A.4).

    Notebook 08, section 8.5.

    Positions are fractions of the image without its padding, so that they mean the same in images
    of every size.

    Args:
        padding: ``(B, h, w)`` bool, True for padding.
        channels: D, a multiple of 4: the first half for y, the second for x.
        temperature: ratio of the longest wave to the shortest.

    Returns:
        ``(B, D, h, w)``.
    """
    inside = (~padding).float()
    per_axis = channels // 2
    # Sine and cosine in turn share a wave length.
    exponent = torch.arange(per_axis, device=padding.device).div(2, rounding_mode="floor") * 2
    lengths = temperature ** (exponent / per_axis)  # (D / 2,)
    waves = []
    for axis in (1, 2):
        count = inside.cumsum(axis)
        share = count / (count.select(axis, -1).unsqueeze(axis) + 1e-6)
        angle = (share * 2 * math.pi)[..., None] / lengths  # (B, h, w, D / 2)
        pair = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1)
        waves.append(pair.flatten(-2))
    return torch.cat(waves, dim=-1).permute(0, 3, 1, 2)


class EncoderLayer(nn.Module):
    """Self-attention among the cells, then a feed-forward network; each added, then normalised.

    Args:
        d_model: D.
        num_heads: of the attention.
        dim_feedforward: channels between the linear layers.
        dropout: probability, after each part.
    """

    def __init__(self, d_model: int, num_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """``x`` and ``positions`` ``(B, T, D)``, ``padding`` ``(B, T)`` bool, to ``(B, T, D)``."""
        qk = x + positions
        attended, _ = self.self_attn(qk, qk, x, key_padding_mask=padding, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        normalised: Tensor = self.norm2(x + self.dropout(y))
        return normalised


class DecoderLayer(nn.Module):
    """Self-attention among the queries, then cross-attention to the cells.

    Arguments as :class:`EncoderLayer`.
    """

    def __init__(self, d_model: int, num_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Refine the query features.

        Args:
            x: ``(B, Q, D)``, the query features so far.
            queries: ``(B, Q, D)``, the query embeddings.
            memory, positions: ``(B, T, D)``, the encoder's cells and their positions.
            padding: ``(B, T)`` bool, or None where nothing is padded.

        Returns:
            ``(B, Q, D)``.
        """
        qk = x + queries
        attended, _ = self.self_attn(qk, qk, x, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        attended, _ = self.multihead_attn(
            x + queries, memory + positions, memory, key_padding_mask=padding, need_weights=False
        )
        x = self.norm2(x + self.dropout(attended))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        normalised: Tensor = self.norm3(x + self.dropout(y))
        return normalised


class Decoder(nn.Module):
    """Decoder layers, and one norm for the output of every layer."""

    def __init__(
        self, layers: int, d_model: int, num_heads: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(d_model, num_heads, dim_feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d_model)


class Encoder(nn.Module):
    """Encoder layers."""

    def __init__(
        self, layers: int, d_model: int, num_heads: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, num_heads, dim_feedforward, dropout) for _ in range(layers)
        )


class Transformer(nn.Module):
    """Encoder and decoder.

    Notebook 08, section 8.6.

    Args:
        encoder_layers, decoder_layers: how many of each.
        d_model, num_heads, dim_feedforward, dropout: of :class:`EncoderLayer`.
    """

    def __init__(
        self,
        encoder_layers: int,
        decoder_layers: int,
        d_model: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_layers, d_model, num_heads, dim_feedforward, dropout)
        self.decoder = Decoder(decoder_layers, d_model, num_heads, dim_feedforward, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, padding: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the map and decode the queries.

        Args:
            x: ``(B, D, h, w)``.
            padding: ``(B, h, w)`` bool.
            queries: ``(Q, D)``, the learnt query embeddings.

        Returns:
            ``(L, B, Q, D)``, the queries after each layer of the decoder, and ``(B, D, h, w)``, the
            encoder's map.
        """
        positions = sine_positions(padding, x.shape[1])
        positions = positions.flatten(2).transpose(1, 2)  # (B, T, D)
        memory = x.flatten(2).transpose(1, 2)
        # Without padding torch may choose a faster kernel; a compiled graph is for both.
        padded = torch.compiler.is_compiling() or bool(padding.any())
        mask = padding.flatten(1) if padded else None
        for layer in self.encoder.layers:
            memory = layer(memory, positions, mask)
        queries = queries.expand(len(x), -1, -1)  # (B, Q, D)
        features, of_layers = torch.zeros_like(queries), []
        for layer in self.decoder.layers:
            features = layer(features, queries, memory, positions, mask)
            of_layers.append(self.decoder.norm(features))
        return torch.stack(of_layers), memory.transpose(1, 2).reshape(x.shape)
