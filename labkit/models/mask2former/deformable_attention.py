"""Multi-scale deformable attention: each query reads a few num_samples that it chooses itself.

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


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum values at chosen num_samples, with chosen weights (equation 3, without the projections).

    Bilinear sampling reads four cells for each of the S · P sampling points of a head.
    ``embedding_bag`` gathers these 4 · S · P rows of ``value`` and adds them with their weights in
    one call. The result equals that of ``grid_sample`` with zero padding, which returns all sampled
    values first, as a tensor P times as large.

    Args:
        value: ``(B, T, M, D / M)``, the levels one after the other, each row by row.
        sizes: S of them.
        locations: ``(B, Q, M, S, P, 2)`` x and y as fractions of a level's width and height.
        weights: ``(B, Q, M, S, P)``.

    Returns:
        ``(B, Q, D)``.
    """
    num_images, num_cells, num_heads, _ = value.shape
    extent = torch.tensor([(w, h) for h, w in sizes], device=value.device)  # (S, 2)
    width, height = extent[:, :1], extent[:, 1:]  # (S, 1)
    level_start = (
        torch.tensor([0, *(h * w for h, w in sizes)]).cumsum(0)[:-1, None].to(value.device)
    )
    image = torch.arange(num_images, device=value.device)[:, None, None, None, None]
    head = torch.arange(num_heads, device=value.device)[:, None, None]
    # In cells: the centre of the first one is at 0.
    x, y = (locations * extent[:, None] - 0.5).unbind(-1)  # (B, Q, M, S, P)
    left, top = x.detach().floor(), y.detach().floor()
    rows, sample_weights = [], []
    for column, along_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, along_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            cell = level_start + (row * width + column).long() * inside
            rows.append((image * num_cells + cell) * num_heads + head)
            sample_weights.append(weights * along_x * along_y * inside)
    bags = num_images * locations.shape[1] * num_heads
    summed = F.embedding_bag(
        torch.stack(rows, dim=3).view(bags, -1),
        value.flatten(0, 2),
        mode="sum",
        per_sample_weights=torch.stack(sample_weights, dim=3).view(bags, -1),
    )
    return summed.reshape(num_images, locations.shape[1], -1)


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
        extent = offsets.new_tensor([(w, h) for h, w in sizes])  # (S, 2)
        locations = reference[:, None, None, None] + offsets / extent[:, None]
        values = self.value_proj(value).unflatten(2, (num_heads, -1))  # (B, T, M, D / M)
        attended = deformable_attention(values, sizes, locations, weights)
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
