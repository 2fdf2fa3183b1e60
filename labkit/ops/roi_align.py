"""RoIAlign (He et al., *Mask R-CNN*, ICCV 2017, section 3): bilinear samples, no rounding.

Four implementations with the same results: ``loop`` is the definition, ``separable`` a faster
algorithm (:mod:`labkit.ops.roi_align_separable`), ``compiled`` the C++ operator of ``labkit/csrc``,
and ``torchvision`` the reference.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops import roi_align_compiled
from labkit.ops.roi_align_separable import roi_align_separable
from labkit.ops.roi_arguments import Boxes, check_rois

Implementation = Literal["auto", "loop", "separable", "compiled", "torchvision"]


def roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    impl: Implementation = "auto",
) -> Tensor:
    """Average bilinear samples in every bin of every box; drop-in for torchvision's.

    K. He et al., "Mask R-CNN", ICCV 2017, section 3. Notebook 02, section 2.2.

    Args:
        input: feature map ``(N, C, H, W)``: float16, bfloat16, float32 or float64, any strides.
        boxes: one ``(K_i, 4)`` tensor of ``x1, y1, x2, y2`` per image, or ``(K, 5)`` with the
            image's index first; in image pixels. They get no gradient.
        output_size: bins, one number or ``(height, width)``.
        spatial_scale: feature cells per image pixel, such as 1/16.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)`` for each box.
        aligned: True takes cell i to be centred on ``i + 0.5`` (Detectron2), False on ``i``, with
            boxes at least one cell long (the original code, torchvision's models).
        impl: ``auto`` takes the compiled operator, and where it cannot be built the separable
            version (torchvision's on a GPU), saying so once.

    Returns:
        ``(K, C, height, width)`` of the input's type; channels-last where the input is and the
        operator is the compiled one. A box of negative size gives 0 when ``sampling_ratio`` is 0 or
        less. On the CPU the backward pass adds in a fixed order, whatever the number of threads; on
        a GPU it adds atomically, so the last bits differ from run to run.

    Raises:
        LabkitError: an argument that cannot be used, by name. On a GPU a box that is not finite, or
            of an image outside the batch, gives NaN instead: looking would wait for the GPU.
    """
    rois, size = check_rois(input, boxes, output_size, spatial_scale)
    if sampling_ratio > 65535:
        raise LabkitError(f"roi_align: sampling_ratio must be at most 65535, got {sampling_ratio}")
    if impl == "auto":
        impl = _fastest(input.device.type)
    if impl == "compiled":
        return roi_align_compiled.roi_align(
            input, rois, size, spatial_scale, sampling_ratio, aligned
        )
    if impl == "separable":
        return roi_align_separable(input, rois, size, spatial_scale, sampling_ratio, aligned)
    if impl == "torchvision":
        from torchvision.ops import roi_align as reference

        rois = rois.to(input.dtype)
        pooled: Tensor = reference(input, rois, size, spatial_scale, sampling_ratio, aligned)
        return pooled
    if impl == "loop":
        return _loop(input, rois, size, spatial_scale, sampling_ratio, aligned)
    raise LabkitError(f"roi_align: impl must be one of {get_args(Implementation)}, got {impl!r}")


def _fastest(device: str) -> Implementation:
    if roi_align_compiled.operator_available(device):
        return "compiled"
    return "torchvision" if device == "cuda" else "separable"


def _loop(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Definition of RoIAlign, one sample at a time."""
    height, width = size
    offset = 0.5 if aligned else 0.0
    pooled = []
    for image, x1, y1, x2, y2 in rois.tolist():
        left, top = x1 * spatial_scale - offset, y1 * spatial_scale - offset
        box_width = x2 * spatial_scale - offset - left
        box_height = y2 * spatial_scale - offset - top
        if not aligned:
            box_width, box_height = max(box_width, 1.0), max(box_height, 1.0)
        bin_width, bin_height = box_width / width, box_height / height
        across = sampling_ratio if sampling_ratio > 0 else math.ceil(bin_width)
        down = sampling_ratio if sampling_ratio > 0 else math.ceil(bin_height)
        for row in range(height):
            for column in range(width):
                total = input.new_zeros(input.shape[1])
                for i in range(down):
                    y = top + (row + (i + 0.5) / down) * bin_height
                    for j in range(across):
                        x = left + (column + (j + 0.5) / across) * bin_width
                        total = total + bilinear(input[int(image)], y, x)
                pooled.append(total / max(down * across, 1))
    if not pooled:
        return input.new_zeros((0, input.shape[1], height, width))
    return torch.stack(pooled).unflatten(0, (len(rois), height, width)).permute(0, 3, 1, 2)


def bilinear(features: Tensor, y: float, x: float) -> Tensor:
    """Interpolate a map ``(C, H, W)`` at (y, x): ``(C,)``. The centre of cell ``[i, j]`` is (i, j).

    Up to half a cell outside the map the value is the border's, farther out it is 0.
    """
    height, width = features.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return features.new_zeros(features.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * features[:, top, left] + across * features[:, top, right]
    lower = (1 - across) * features[:, bottom, left] + across * features[:, bottom, right]
    return (1 - down) * upper + down * lower
