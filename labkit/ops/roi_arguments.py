"""Checks and normalisation of the arguments that RoIPool, RoIWarp and RoIAlign share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.system.message_text import counted

Boxes = Tensor | Sequence[Tensor]


def check_rois(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    *,
    name: str = "roi_align",
) -> tuple[Tensor, tuple[int, int]]:
    """Check the arguments; return the boxes as one tensor, and the bins along y and x.

    Args:
        input: feature map, ``(N, C, H, W)``, floating point.
        boxes: one ``(K_i, 4)`` tensor of ``x1, y1, x2, y2`` for every image, or ``(K, 5)`` with the
            image's index in the batch first; in image coordinates.
        output_size: bins, one number or ``(height, width)``.
        spatial_scale: feature cells per image pixel.
        name: the operator, for the messages.

    Returns:
        ``(K, 5)`` boxes, float64 where the input is and float32 elsewhere (the half-precision types
        do not hold the coordinates of a large image), and ``(height, width)`` of the output.

    Raises:
        LabkitError: an argument has another rank, type or device, a number of bins is not positive,
            a coordinate is not finite, or an index lies outside the batch. Values on a GPU are not
            looked at, since that would wait for it.
    """
    if not isinstance(input, Tensor) or input.dim() != 4:
        raise LabkitError(f"{name}: input must be (N, C, H, W), got {_describe(input)}")
    if not input.is_floating_point():
        raise LabkitError(
            f"{name}: input must be floating point, got {input.dtype}; pass input.float()"
        )
    height, width = _bins(output_size, name)
    if not (math.isfinite(spatial_scale) and spatial_scale > 0):
        raise LabkitError(
            f"{name}: spatial_scale must be a positive number, got {spatial_scale}; "
            "it is feature cells per image pixel, such as 1/16"
        )
    rois = _as_rois(input, boxes, name)
    if rois.device != input.device:
        raise LabkitError(
            f"{name}: boxes are on {rois.device}, input is on {input.device}; move one of them"
        )
    if rois.shape[0] and 0 in input.shape[2:]:
        raise LabkitError(f"{name}: input {tuple(input.shape)} has no cells to pool from")
    if rois.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(rois, input.shape[0], name)
    return rois, (height, width)


def _bins(output_size: int | tuple[int, int], name: str) -> tuple[int, int]:
    pair = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    if len(pair) != 2 or not all(isinstance(n, int) and 1 <= n <= 65535 for n in pair):
        raise LabkitError(
            f"{name}: output_size must be one or two numbers of bins from 1 to 65535, "
            f"got {output_size!r}"
        )
    return pair[0], pair[1]


def _as_rois(input: Tensor, boxes: Boxes, name: str) -> Tensor:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    if isinstance(boxes, Tensor):
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise LabkitError(
                f"{name}: boxes as one tensor must be (K, 5) with the batch index first, "
                f"got {_describe(boxes)}; pass [boxes] for the (K, 4) boxes of a single image"
            )
        return boxes.detach().to(dtype)
    if len(boxes) != input.shape[0]:
        raise LabkitError(
            f"{name}: boxes has {counted(len(boxes), 'tensor')} for a batch of"
            f" {counted(input.shape[0], 'image')}"
        )
    for index, one in enumerate(boxes):
        if not isinstance(one, Tensor) or one.dim() != 2 or one.shape[1] != 4:
            raise LabkitError(f"{name}: boxes[{index}] must be (K, 4), got {_describe(one)}")
    if len(boxes) == 0:
        return input.new_zeros((0, 5), dtype=dtype)
    return boxes_to_rois([one.detach().to(dtype) for one in boxes])


def boxes_to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Join the boxes ``(K_i, 4)`` of images into ``(K, 5)``, with the image's index first."""
    index = torch.cat([one.new_full((one.shape[0], 1), i) for i, one in enumerate(boxes)])
    return torch.cat([index, torch.cat(list(boxes))], dim=1)


def _check_values(rois: Tensor, batch: int, name: str) -> None:
    finite = rois.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise LabkitError(f"{name}: boxes row {row} is not finite: {rois[row].tolist()}")
    outside = (rois[:, 0] < 0) | (rois[:, 0] >= batch)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise LabkitError(
            f"{name}: boxes row {row} names image {rois[row, 0]:g} of a batch of {batch}; "
            f"the first column must be 0 to {batch - 1}"
        )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"{type(value).__name__}"
