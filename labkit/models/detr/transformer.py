"""DETR's transformer: an encoder for the map's cells, a decoder for the object queries.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.2 and
appendix A.3 to A.4. Unlike a language model's, positions are added in every layer, to queries and
keys only: a value says what is there, not where.

Letters in shapes: ``B`` images, ``D`` channels, ``h × w`` the map, ``T = h · w`` its cells, ``Q``
object queries, ``L`` layers of the decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sine_positions(padding: Tensor, channels: int, temperature: float = 10_000.0) -> Tensor:
    """Every cell's place as waves of many lengths (appendix A.4).

    The place is a share of the picture without its padding, so that it means the same in pictures
    of every size.

    Args:
        padding: ``(B, h, w)`` bool, True where there is no picture.
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
    """Self-attention among the cells, then two linear layers; each added, then normalised.

    Args:
        width: D.
        heads: of the attention.
        hidden: channels between the linear layers.
        dropout: share of zeros after each part.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """``x`` and ``positions`` ``(B, T, D)``, ``padding`` ``(B, T)`` bool, to ``(B, T, D)``."""
        at = x + positions
        found, _ = self.self_attn(at, at, x, key_padding_mask=padding, need_weights=False)
        x = self.norm1(x + self.dropout(found))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        normalised: Tensor = self.norm2(x + self.dropout(y))
        return normalised


class DecoderLayer(nn.Module):
    """The queries look at each other, then at the cells; arguments as :class:`EncoderLayer`."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor, padding: Tensor | None
    ) -> Tensor:
        """One round.

        Args:
            x: ``(B, Q, D)``, what the queries have found so far.
            queries: ``(B, Q, D)``, which they are: their positions.
            memory, positions: ``(B, T, D)``, the encoder's cells and their places.
            padding: ``(B, T)`` bool, or None where nothing is padded.

        Returns:
            ``(B, Q, D)``.
        """
        at = x + queries
        found, _ = self.self_attn(at, at, x, need_weights=False)
        x = self.norm1(x + self.dropout(found))
        found, _ = self.multihead_attn(
            x + queries, memory + positions, memory, key_padding_mask=padding, need_weights=False
        )
        x = self.norm2(x + self.dropout(found))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        normalised: Tensor = self.norm3(x + self.dropout(y))
        return normalised


class Decoder(nn.Module):
    """Layers and one norm, through which the result of every layer goes."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, hidden, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)


class Encoder(nn.Module):
    """Layers."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, hidden, dropout) for _ in range(layers)
        )


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        encoder_layers, decoder_layers: how many of each.
        width, heads, hidden, dropout: of :class:`EncoderLayer`.
    """

    def __init__(
        self,
        encoder_layers: int,
        decoder_layers: int,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_layers, width, heads, hidden, dropout)
        self.decoder = Decoder(decoder_layers, width, heads, hidden, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, padding: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Objects from a map.

        Args:
            x: ``(B, D, h, w)``.
            padding: ``(B, h, w)`` bool.
            queries: ``(Q, D)``, the learnt places from which the decoder asks.

        Returns:
            ``(L, B, Q, D)``, the queries after each layer of the decoder, and ``(B, D, h, w)``, the
            encoder's map.
        """
        places = sine_positions(padding, x.shape[1])
        positions = places.flatten(2).transpose(1, 2)  # (B, T, D)
        memory = x.flatten(2).transpose(1, 2)
        # Without padding torch may choose a quicker kernel.
        hidden = padding.flatten(1) if bool(padding.any()) else None
        for layer in self.encoder.layers:
            memory = layer(memory, positions, hidden)
        asked = queries.expand(len(x), -1, -1)  # (B, Q, D)
        found, after = torch.zeros_like(asked), []
        for layer in self.decoder.layers:
            found = layer(found, asked, memory, positions, hidden)
            after.append(self.decoder.norm(found))
        return torch.stack(after), memory.transpose(1, 2).reshape(x.shape)
