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

    def forward(self, x: Tensor, pos: Tensor, padding: Tensor | None) -> Tensor:
        """``x`` and ``pos`` ``(B, T, D)``, ``padding`` ``(B, T)`` bool, to ``(B, T, D)``."""
        qk = x + pos
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
        self, tgt: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Refine the query features.

        Args:
            tgt: ``(B, Q, D)``, the query features so far.
            query_pos: ``(B, Q, D)``, the query embeddings.
            memory, pos: ``(B, T, D)``, the encoder's cells and their positions.
            padding: ``(B, T)`` bool, or None where nothing is padded.

        Returns:
            ``(B, Q, D)``.
        """
        qk = tgt + query_pos
        attended, _ = self.self_attn(qk, qk, tgt, need_weights=False)
        tgt = self.norm1(tgt + self.dropout(attended))
        attended, _ = self.multihead_attn(
            tgt + query_pos, memory + pos, memory, key_padding_mask=padding, need_weights=False
        )
        tgt = self.norm2(tgt + self.dropout(attended))
        y = self.linear2(self.dropout(F.relu(self.linear1(tgt))))
        normalised: Tensor = self.norm3(tgt + self.dropout(y))
        return normalised


class Encoder(nn.Module):
    """Encoder layers, one after the other."""

    def __init__(
        self, layers: int, d_model: int, num_heads: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, num_heads, dim_feedforward, dropout) for _ in range(layers)
        )

    def forward(self, x: Tensor, pos: Tensor, padding: Tensor | None) -> Tensor:
        """The memory ``(B, T, D)``; arguments as those of a layer."""
        for layer in self.layers:
            x = layer(x, pos, padding)
        return x


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

    def forward(
        self, query_pos: Tensor, memory: Tensor, pos: Tensor, padding: Tensor | None
    ) -> Tensor:
        """The query features ``(L, B, Q, D)`` after each layer; they begin with zeros.

        Arguments as those of a layer.
        """
        tgt, intermediate = torch.zeros_like(query_pos), []
        for layer in self.layers:
            tgt = layer(tgt, query_pos, memory, pos, padding)
            intermediate.append(self.norm(tgt))
        return torch.stack(intermediate)


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

    def forward(self, x: Tensor, padding: Tensor, query_embed: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the map and decode the queries.

        Args:
            x: ``(B, D, h, w)``.
            padding: ``(B, h, w)`` bool.
            query_embed: ``(Q, D)``, the learnt query embeddings.

        Returns:
            ``(L, B, Q, D)``, the query features after each layer of the decoder, and ``(B, D, h,
            w)``, the encoder's map.
        """
        pos = sine_positions(padding, x.shape[1]).flatten(2).transpose(1, 2)  # (B, T, D)
        # Without padding torch may choose a faster kernel; a compiled graph is for both.
        padded = torch.compiler.is_compiling() or bool(padding.any())
        mask = padding.flatten(1) if padded else None
        memory = self.encoder(x.flatten(2).transpose(1, 2), pos, mask)
        query_pos = query_embed.expand(len(x), -1, -1)  # (B, Q, D)
        query_features = self.decoder(query_pos, memory, pos, mask)
        return query_features, memory.transpose(1, 2).reshape(x.shape)
