"""Multi-scale deformable attention: each query reads a few samples that it chooses itself.

X. Zhu et al., "Deformable DETR", ICLR 2021, section 4.1. Ordinary attention weighs all T cells of a
map for each of T queries. Here a query predicts, for each head and level, P offsets around its own
place and P weights; what it reads is interpolated between cells.

Letters in shapes: ``B`` images, ``Q`` queries, ``D`` channels, ``M`` heads, ``S`` levels, ``P``
points of a level, ``T`` cells of all levels in a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.preprocess import Size
from labkit.ops.ms_deform_attn import ms_deform_attn


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum values at chosen places, with chosen weights (equation 3, without the projections).

    Notebook 10, section 10.4. This is the definition, in operators that every compiled graph and
    ONNX have; :func:`labkit.ops.ms_deform_attn.ms_deform_attn` is faster, with the same numbers.

    Args:
        value: ``(B, T, M, D / M)``, the levels one after the other, each row by row.
        sizes: S of them.
        locations: ``(B, Q, M, S, P, 2)`` x and y as fractions of a level's width and height.
        weights: ``(B, Q, M, S, P)``.

    Returns:
        ``(B, Q, D)``.
    """
    num_heads = value.shape[2]
    levels = value.flatten(2).transpose(1, 2).split([h * w for h, w in sizes], dim=2)
    attended = None
    for i, (level, size) in enumerate(zip(levels, sizes, strict=True)):  # (B, D, h w)
        maps = level.unflatten(1, (num_heads, -1)).flatten(0, 1)  # (B M, D / M, h w)
        grid = (2 * locations[:, :, :, i] - 1).transpose(1, 2).flatten(0, 1)  # (B M, Q, P, 2)
        sampled = F.grid_sample(maps.unflatten(2, size), grid, align_corners=False)
        weight = weights[:, :, :, i].transpose(1, 2).flatten(0, 1)  # (B M, Q, P)
        summed = (sampled * weight[:, None]).sum(dim=-1)  # (B M, D / M, Q)
        attended = summed if attended is None else attended + summed
    assert attended is not None
    return attended.unflatten(0, (-1, num_heads)).flatten(1, 2).transpose(1, 2)


def extents(sizes: Sequence[Size], like: Tensor) -> Tensor:
    """``(S, 2)`` width and height of each level, which a compiled graph can vary."""
    return torch.stack([torch.stack([like.new_full((), n) for n in (w, h)]) for h, w in sizes])


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections.

    Args:
        d_model: D.
        num_heads: M.
        num_levels: S.
        num_points: P.
    """

    def __init__(self, d_model: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.shape = num_heads, num_levels, num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(d_model, 2 * num_samples)
        self.attention_weights = nn.Linear(d_model, num_samples)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        # At first each head looks in a direction of its own, point p at a distance of p + 1 cells.
        angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (M, 2)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, num_points + 1)[:, None]
        offsets = (direction[:, None, None] * distance).expand(-1, num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(
        self, query: Tensor, reference: Tensor, value: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Attend.

        Args:
            query: ``(B, Q, D)``, with positions.
            reference: ``(Q, 2)`` x and y of each query's own place, as fractions.
            value: ``(B, T, D)``, without positions.
            sizes: of the levels.

        Returns:
            ``(B, Q, D)``.
        """
        num_heads, num_levels, num_points = self.shape
        offsets = self.sampling_offsets(query).unflatten(2, (num_heads, num_levels, num_points, 2))
        weights = self.attention_weights(query).unflatten(2, (num_heads, -1)).softmax(dim=-1)
        weights = weights.unflatten(3, (num_levels, num_points))
        extent = extents(sizes, offsets)  # (S, 2)
        locations = reference[:, None, None, None] + offsets / extent[:, None]
        values = self.value_proj(value).unflatten(2, (num_heads, -1))  # (B, T, M, D / M)
        attend = deformable_attention if torch.compiler.is_compiling() else ms_deform_attn
        attended = attend(values, sizes, locations, weights)
        projected: Tensor = self.output_proj(attended)
        return projected


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention of all cells, then a feed-forward network; each added, normalised.

    Args:
        d_model, num_heads, num_levels, num_points: of :class:`DeformableAttention`.
        dim_feedforward: channels between the linear layers.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        dim_feedforward: int,
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(d_model, num_heads, num_levels, num_points)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, x: Tensor, positions: Tensor, reference: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """``x`` and ``positions`` ``(B, T, D)``, ``reference`` ``(T, 2)``, to ``(B, T, D)``."""
        x = self.norm1(x + self.self_attn(x + positions, reference, x, sizes))
        normalised: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return normalised
