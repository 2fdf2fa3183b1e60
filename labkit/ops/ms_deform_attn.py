"""Multi-scale deformable attention as weighted sums of a table's rows.

Bilinear sampling reads four cells for each of the S · P sampling points of a head: the result is
one weighted sum of 4 · S · P rows of the values. The definition, in
:mod:`labkit.models.mask2former.deformable_attention`, holds all sampled values first, in a tensor
S · P times as large.

Letters in shapes: ``B`` images, ``Q`` queries, ``D`` channels, ``M`` heads, ``S`` levels, ``P``
points of a level, ``T`` cells of all levels in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Size = tuple[int, int]


def ms_deform_attn(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum values at chosen places, with chosen weights.

    X. Zhu et al., "Deformable DETR", ICLR 2021, equation 3, without the projections. Notebook 10,
    section 10.4.

    Args:
        value: ``(B, T, M, D / M)``, the levels one after the other, each row by row.
        sizes: S of them.
        locations: ``(B, Q, M, S, P, 2)`` x and y as fractions of a level's width and height.
        weights: ``(B, Q, M, S, P)``.

    Returns:
        ``(B, Q, D)``.
    """
    num_images, num_queries, num_heads = locations.shape[:3]
    cells = framed_levels(value, sizes)  # (B, T', M, D / M)
    rows, shares = sampled_rows(sizes, cells.shape[1], locations, weights)
    sums = num_images * num_queries * num_heads
    summed: Tensor = WeightedSum.apply(
        cells.flatten(0, 2), rows.view(sums, -1), shares.view(sums, -1)
    )  # (B Q M, D / M)
    return summed.reshape(num_images, num_queries, -1)


def framed_levels(value: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Put a frame of zeros around each level, so that the four cells of every sample exist.

    After the last level there are also those below and to the right of its frame, which have no
    weight.

    Returns:
        ``(B, T', M, D / M)``.
    """
    levels = [
        F.pad(level.unflatten(1, size), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, size in zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ]
    return F.pad(torch.cat(levels, dim=1), (0, 0, 0, 0, 0, sizes[-1][1] + 3))


def sampled_rows(
    sizes: Sequence[Size], num_cells: int, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The four cells around each sampling point, and their shares of the sum.

    Args:
        sizes: of the levels, without frames.
        num_cells: T'.
        locations, weights: of :func:`ms_deform_attn`.

    Returns:
        ``(B, Q, M, S, P, 4)`` int32 row of the cell and head among all ``B · T' · M``, and its
        share: bilinear weight times attention weight.
    """
    num_images, _, num_heads = locations.shape[:3]
    device = locations.device
    areas = torch.tensor([(h + 2) * (w + 2) for h, w in sizes], dtype=torch.int32, device=device)
    level_start = (areas.cumsum(0, dtype=torch.int32) - areas)[:, None]  # (S, 1)
    extent = locations.new_tensor([(w, h) for h, w in sizes])[:, None]  # (S, 1, 2)
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
    shares = [upper - upper_right, upper_right, lower - lower_right, lower_right]
    return rows, torch.stack(shares, dim=-1)


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
