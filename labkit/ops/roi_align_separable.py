"""RoIAlign as two small matrices a box: ``A_y · F · A_xᵀ``.

The samples of a box form a grid and bilinear weights are products of two linear ones, so the
average over a bin's samples factors into a matrix that acts on the rows of the feature map and one
that acts on its columns. That holds for any number of samples; only the matrices change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def axis_samples(
    low: Tensor, high: Tensor, bins: int, scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Where the samples of K boxes lie along one axis.

    Args:
        low: ``(K,)`` first edge of the boxes in image pixels.
        high: ``(K,)`` last edge.
        bins: bins B along this axis.
        scale: feature cells per image pixel.
        ratio: samples a bin; 0 or less takes ``ceil`` of the bin's length for each box.
        aligned: whether cell i is centred on ``i + 0.5`` (Detectron2), otherwise on ``i``, with
            boxes at least one cell long.

    Returns:
        Coordinates ``(K, B, S)`` in feature cells with S the largest number of samples, and the
        number of samples ``(K,)``; coordinates beyond a box's number are NaN.
    """
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    size = high * scale - offset - start
    if not aligned:
        size = size.clamp(min=1)
    length = size / bins
    count = torch.full_like(low, ratio) if ratio > 0 else length.ceil().clamp(min=0)
    most = int(count.max()) if len(count) else 0
    sample = torch.arange(most, device=low.device, dtype=low.dtype)
    bin_ = torch.arange(bins, device=low.device, dtype=low.dtype)
    first = start[:, None] + bin_ * length[:, None]
    inside = (sample + 0.5) * length[:, None] / count[:, None]
    inside = inside.masked_fill(sample >= count[:, None], torch.nan)
    return first[:, :, None] + inside[:, None, :], count


def sampling_matrix(
    low: Tensor,
    high: Tensor,
    bins: int,
    size: int,
    *,
    scale: float = 1.0,
    ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """The matrices ``A`` of K boxes along one axis, ``(K, bins, size)``.

    Row b holds the weights with which the cells of the map enter bin b: linear interpolation at
    each sample, averaged over the bin's samples. A sample more than one cell off the map counts as
    0; one within a cell of it takes the border's value (torchvision's rule). The other arguments
    are those of :func:`axis_samples`; ``size`` is the number of cells along the axis.
    """
    at, count = axis_samples(low, high, bins, scale, ratio, aligned)
    on_map = (at >= -1) & (at <= size)
    at = at.nan_to_num(0.0).clamp(0, max(size - 1, 0))
    lower = at.floor()
    upper_weight = at - lower
    share = on_map / count.clamp(min=1)[:, None, None]
    matrix = at.new_zeros((len(low), bins, size))
    matrix.scatter_add_(2, lower.long(), (1 - upper_weight) * share)
    upper = (lower + 1).clamp(max=max(size - 1, 0)).long()
    return matrix.scatter_add_(2, upper, upper_weight * share)


def roi_align_separable(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign ``(K, C, *size)`` of arguments that ``roi_arguments.check_rois`` has checked.

    K. He et al., "Mask R-CNN", ICCV 2017, section 3. Notebook 02, section 2.5.

    Plain PyTorch on any device, differentiable with respect to ``input`` any number of times; the
    sum is taken in float32 for the half-precision types.
    """
    pooled: Tensor = _Separable.apply(input.to(rois.dtype), rois, size, scale, ratio, aligned)
    return pooled.to(input.dtype)


def _plan(
    rois: Tensor,
    height: int,
    width: int,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> Iterator[tuple[tuple[int, slice, slice, slice], Tensor, Tensor]]:
    """For each box the cells it touches, as an index of the map, and the matrices cut to them."""
    options: dict[str, Any] = {"scale": scale, "ratio": ratio, "aligned": aligned}
    all_rows = _bands(sampling_matrix(rois[:, 2], rois[:, 4], size[0], height, **options))
    all_columns = _bands(sampling_matrix(rois[:, 1], rois[:, 3], size[1], width, **options))
    images = rois[:, 0].long().tolist()
    for image, (rows, a_y), (columns, a_x) in zip(images, all_rows, all_columns, strict=True):
        yield (image, slice(None), rows, columns), a_y, a_x


def _bands(matrices: Tensor) -> list[tuple[slice, Tensor]]:
    """The columns between the first and the last that is not zero, of each matrix."""
    used = (matrices != 0).any(dim=1)
    size = used.shape[1]
    index = torch.arange(size, device=used.device)
    first = torch.where(used, index, size).amin(dim=1).tolist()
    last = torch.where(used, index + 1, 0).amax(dim=1).tolist()
    return [
        (slice(a, b), matrix[:, a:b]) for a, b, matrix in zip(first, last, matrices, strict=True)
    ]


class _Separable(torch.autograd.Function):
    """One box after the other. Left to autograd, each box would add a map-sized gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        rois: Tensor,
        size: tuple[int, int],
        scale: float,
        ratio: int,
        aligned: bool,
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.options = (size, scale, ratio, aligned)
        ctx.shape = input.shape
        plan = _plan(rois, *input.shape[2:], *ctx.options)
        pooled = [a_y @ input[cells] @ a_x.T for cells, a_y, a_x in plan]
        return torch.stack(pooled) if pooled else input.new_zeros((0, input.shape[1], *size))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        return _SeparableBackward.apply(grad, rois, ctx.shape, *ctx.options), *[None] * 5


class _SeparableBackward(torch.autograd.Function):
    """The transpose, ``A_yᵀ · G · A_x`` added into the map; its own transpose is the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        rois: Tensor,
        shape: torch.Size,
        size: tuple[int, int],
        scale: float,
        ratio: int,
        aligned: bool,
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.options = (size, scale, ratio, aligned)
        result = grad.new_zeros(shape)
        plan = _plan(rois, *shape[2:], *ctx.options)
        for one, (cells, a_y, a_x) in zip(grad, plan, strict=True):
            result[cells] += a_y.T @ one @ a_x
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        return _Separable.apply(grad, rois, *ctx.options), *[None] * 6
