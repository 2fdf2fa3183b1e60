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
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from labkit.models.preprocess import Size


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum values at chosen places, with chosen weights (equation 3, without the projections).

    Notebook 10, section 10.4.

    Bilinear sampling reads four cells for each of the S · P sampling points of a head: the result
    is one weighted sum of 4 · S · P rows of ``value``. It equals that of ``grid_sample`` with zero
    padding, which returns all sampled values first, as a tensor S · P times as large.

    Args:
        value: ``(B, T, M, D / M)``, the levels one after the other, each row by row.
        sizes: S of them.
        locations: ``(B, Q, M, S, P, 2)`` x and y as fractions of a level's width and height.
        weights: ``(B, Q, M, S, P)``.

    Returns:
        ``(B, Q, D)``.
    """
    if torch.compiler.is_compiling():
        return _by_grid_sample(value, sizes, locations, weights)
    num_images, _, num_heads, _ = value.shape
    device = value.device
    # Around each level a frame of zeros, so that all four cells exist; after the last one also
    # those below and to the right of its frame, which have no weight.
    levels = [
        F.pad(level.unflatten(1, size), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, size in zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ]
    cells = F.pad(torch.cat(levels, dim=1), (0, 0, 0, 0, 0, sizes[-1][1] + 3))
    num_cells = cells.shape[1]
    areas = torch.tensor([(h + 2) * (w + 2) for h, w in sizes], dtype=torch.int32, device=device)
    level_start = (areas.cumsum(0, dtype=torch.int32) - areas)[:, None]  # (S, 1)
    extent = value.new_tensor([(w, h) for h, w in sizes])[:, None]  # (S, 1, 2)
    row_length = extent[..., 0].int() + 2  # (S, 1)

    # In cells: the centre of the frame's first cell is at 0, and beyond the frame all is zero.
    places = torch.minimum((locations * extent + 0.5).clamp(min=0), extent + 1)
    # Places that are not numbers give sums that are none, of any cells.
    corner = places.detach().floor().nan_to_num(nan=0.0)
    right, down = (places - corner).unbind(-1)  # (B, Q, M, S, P), how far towards the next cell
    column, row = corner.int().unbind(-1)
    image = torch.arange(num_images, dtype=torch.int32, device=device)[:, None, None, None, None]
    head = torch.arange(num_heads, dtype=torch.int32, device=device)[:, None, None]
    cell = level_start + row * row_length + column
    above = (image * num_cells + cell) * num_heads + head
    below = above + row_length * num_heads
    rows = torch.stack([above, above + num_heads, below, below + num_heads], dim=-1)
    lower = weights * down
    upper = weights - lower
    lower_right, upper_right = lower * right, upper * right
    shares = torch.stack(
        [upper - upper_right, upper_right, lower - lower_right, lower_right], dim=-1
    )
    sums = num_images * locations.shape[1] * num_heads
    summed: Tensor = WeightedSum.apply(
        cells.flatten(0, 2), rows.view(sums, -1), shares.view(sums, -1)
    )
    return summed.reshape(num_images, locations.shape[1], -1)


class WeightedSum(torch.autograd.Function):
    """Weighted sums of a table's rows.

    ``embedding_bag``, but for the gradient of the table: that is a weighted sum of rows again, of
    the upstream gradient, once the pairs are sorted by the table's rows. PyTorch's own adds row by
    row, which on a CPU takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """``(R, D)``, ``rows`` ``(N, K)`` int32 and ``weights`` ``(N, K)`` to ``(N, D)``."""
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        """The gradients of the table and of the weights."""
        table, rows, weights = ctx.saved_tensors
        sorted_rows, order = rows.flatten().sort()
        each_row = torch.arange(len(table), dtype=rows.dtype, device=rows.device)
        grad_table = F.embedding_bag(
            order.div(rows.shape[1], rounding_mode="floor").int(),
            grad,
            torch.searchsorted(sorted_rows, each_row, out_int32=True),
            mode="sum",
            per_sample_weights=weights.flatten()[order],
        )
        with torch.enable_grad():  # of the weights alone PyTorch's own gradient is fast
            weights = weights.detach().requires_grad_()
            again = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=weights)
        (grad_weights,) = torch.autograd.grad(again, weights, grad)
        return grad_table, None, grad_weights


def _by_grid_sample(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """:func:`deformable_attention` in operators that every compiled graph and ONNX have."""
    values = value.flatten(2).transpose(1, 2).split([h * w for h, w in sizes], dim=2)
    attended = None
    for level, (of_level, size) in enumerate(zip(values, sizes, strict=True)):
        maps = of_level.unflatten(1, (value.shape[2], -1)).flatten(0, 1).unflatten(2, size)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(maps, grid, align_corners=False)  # (B M, D / M, Q, P)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B M, Q, P)
        summed = (sampled * weight[:, None]).sum(dim=-1)  # (B M, D / M, Q)
        attended = summed if attended is None else attended + summed
    assert attended is not None
    return attended.unflatten(0, (-1, value.shape[2])).flatten(1, 2).transpose(1, 2)


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
