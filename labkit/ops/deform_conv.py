"""Deformable convolution: a convolution with a learned sampling position for every tap and pixel.

It has three steps: sampling positions, bilinear sampling, and the product with the weights.

Letters in shapes: ``B × C × H × W`` the input, ``D`` channels out, ``kh × kw`` the kernel with
``n = kh · kw`` taps, ``h × w`` the output.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError

Pair = tuple[int, int]

SAMPLES = 2**22
"""Limit of the samples in memory, 16 MB: a large map has one per tap, pixel and channel."""


def sampling_positions(
    offset: Tensor,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """Compute the sampling position of every tap of every output pixel.

    Args:
        offset: ``(B, 2 n, h, w)`` in cells of the input: for each tap, row by row, along y and
            along x. Zeros give the plain convolution.
        kernel, stride, padding, dilation: along y and x.

    Returns:
        ``(B, n, 2, h, w)`` positions (y, x) in cells of the input; (0, 0) is the middle of the
        first one.

    Raises:
        LabkitError: offsets for another kernel.
    """
    kh, kw = kernel
    if offset.ndim != 4 or offset.shape[1] != 2 * kh * kw:
        raise LabkitError(
            f"deform_conv2d: offset must be (B, {2 * kh * kw}, h, w) for a kernel of {kh} × {kw}, "
            f"got {tuple(offset.shape)}"
        )

    def steps(count: int, step: int) -> Tensor:
        return torch.arange(count, dtype=offset.dtype, device=offset.device) * step

    height, width = offset.shape[2:]
    corner_y = steps(height, stride[0]) - padding[0]  # (h,) the first row that the kernel covers
    corner_x = steps(width, stride[1]) - padding[1]  # (w,)
    tap_y, tap_x = steps(kh, dilation[0]), steps(kw, dilation[1])
    y = (tap_y[:, None, None, None] + corner_y[:, None]).expand(kh, kw, height, width)
    x = (tap_x[:, None, None] + corner_x).expand(kh, kw, height, width)
    regular = torch.stack((y, x), dim=2).flatten(0, 1)  # (n, 2, h, w)
    return regular + offset.unflatten(1, (kh * kw, 2))  # (B, n, 2, h, w)


def neighbours(positions: Tensor, size: Pair) -> tuple[Tensor, Tensor]:
    """Find the four cells around each position and their bilinear weights (equation 3).

    Args:
        positions: ``(B, n, 2, h, w)`` (y, x).
        size: (H, W).

    Returns:
        ``(B, h, w, n, 4)`` int64 index of the cell among all ``B · H · W``, and its share, 0 for
        cells outside.
    """
    height, width = size
    y, x = positions.permute(2, 0, 3, 4, 1)  # (B, h, w, n) each
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left  # shares of the lower and of the right neighbours
    first = torch.arange(len(positions), device=positions.device) * (height * width)
    cells, shares = [], []
    for row, share_y in ((top, 1 - below), (top + 1, below)):
        for column, share_x in ((left, 1 - right), (left + 1, right)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cell = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            cells.append(first[:, None, None, None] + cell)
            shares.append(share_y * share_x * inside)
    return torch.stack(cells, dim=-1), torch.stack(shares, dim=-1)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """Convolve with taps that are displaced by ``offset`` (equation 2).

    J. Dai et al., "Deformable Convolutional Networks", ICCV 2017, section 2.1. Notebook 05, section
    5.1.

    The numbers are those of ``torchvision.ops.deform_conv2d``, whose operator does the work on a
    GPU. On a CPU its gradient takes some ten times as long as this one.

    Args:
        input: ``(B, C, H, W)``.
        offset: ``(B, 2 n, h, w)``, see :func:`sampling_positions`.
        weight: ``(D, C, kh, kw)``.
        bias: ``(D,)``.
        stride, padding, dilation: along y and x.

    Returns:
        ``(B, D, h, w)``, differentiable with respect to everything, the offsets too: that is how a
        network learns where to look.

    Raises:
        LabkitError: shapes that do not belong together.
    """
    batch, channels, cells_y, cells_x = input.shape
    kernel = (weight.shape[2], weight.shape[3])
    if weight.shape[1] != channels:
        raise LabkitError(
            f"deform_conv2d: weight {tuple(weight.shape)} is for {weight.shape[1]} channels, the "
            f"input has {channels}"
        )
    expected = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((cells_y, cells_x), padding, dilation, kernel, stride, strict=True)
    ]
    if [offset.shape[0], *offset.shape[2:]] != [batch, *expected]:
        raise LabkitError(
            f"deform_conv2d: the output is {expected[0]} × {expected[1]} for {batch} images, the "
            f"offset {tuple(offset.shape)} is not"
        )
    if input.is_cuda:
        return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation)
    # As torchvision's under autocast: in bfloat16 positions beyond 256 would be whole even numbers.
    precise = torch.promote_types(torch.promote_types(input.dtype, offset.dtype), torch.float32)
    positions = sampling_positions(offset.to(precise), kernel, stride, padding, dilation)
    if torch.compiler.is_compiling():
        output = _by_grid_sample(input.to(precise), positions, weight.to(precise))
        return (output if bias is None else output + bias[:, None, None]).to(input.dtype)
    cells, shares = neighbours(positions, (cells_y, cells_x))  # (B, h, w, n, 4)
    rows = input.to(precise).permute(0, 2, 3, 1).reshape(-1, channels)  # (B H W, C) cell by cell
    filters = weight.to(precise).permute(2, 3, 1, 0).flatten(0, 2)  # (n C, D)
    pixels = max(SAMPLES // len(filters), 1)
    parts = [
        # A sample is the weighted sum of four rows of a table, which is what an embedding bag is.
        F.embedding_bag(
            cell.flatten(0, 1), rows, mode="sum", per_sample_weights=share.flatten(0, 1)
        )
        .reshape(-1, len(filters))
        .mm(filters)
        for cell, share in zip(
            cells.flatten(0, 2).split(pixels), shares.flatten(0, 2).split(pixels), strict=True
        )
    ]  # (pixels, D) each
    output = torch.cat(parts).reshape(batch, *offset.shape[2:], -1).permute(0, 3, 1, 2)
    return (output if bias is None else output + bias[:, None, None]).to(input.dtype)


def _by_grid_sample(input: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
    """The convolution in operators that every compiled graph and ONNX have.

    Args:
        input: ``(B, C, H, W)``.
        positions: ``(B, n, 2, h, w)`` (y, x).
        weight: ``(D, C, kh, kw)``.

    Returns:
        ``(B, D, h, w)``.
    """
    y, x = positions.unbind(2)  # (B, n, h, w) each
    height, width = input.shape[2:]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    sampled = F.grid_sample(input, grid.flatten(1, 2), align_corners=False)  # (B, C, n h, w)
    columns = sampled.unflatten(2, x.shape[1:3]).flatten(1, 2)  # (B, C n, h, w)
    return F.conv2d(columns, weight.flatten(1)[:, :, None, None])
