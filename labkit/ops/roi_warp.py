"""RoIWarp: bilinear samples of a region whose corners are rounded to whole cells.

J. Dai, K. He, J. Sun, "Instance-aware Semantic Segmentation via Multi-task Network Cascades", CVPR
2016, section 3.2, as K. He et al., "Mask R-CNN", ICCV 2017, section 4.2, compare it: of RoIPool's
two roundings it keeps that of the corners, and replaces that of the bins by interpolation.

The region consists of the same cells as RoIPool's, so that the two differ in nothing else. (The
code that Dai et al. published measures it without its last row and column.)

Letters in shapes: ``N × C × H × W`` the feature map, ``K`` regions, ``ph × pw`` bins.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.ops.roi_align import roi_align
from labkit.ops.roi_arguments import Boxes, check_rois
from labkit.ops.roi_pool import whole_cells


def roi_warp(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    reduce: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Resample each region to a grid, after rounding its corners to cells of the map.

    J. Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades", CVPR
    2016, section 3.2. Notebook 02, section 2.2.

    Boxes have no gradient here: they were rounded.

    Args:
        input, boxes, output_size, spatial_scale: as in :func:`labkit.ops.roi_pool.roi_pool`.
        sampling_ratio: s, at least 1; each bin takes s × s bilinear samples.
        reduce: what becomes of a bin's samples.

    Returns:
        ``(K, C, ph, pw)``, differentiable with respect to ``input``.

    Raises:
        LabkitError: an argument of the wrong type, rank or range.
    """
    if reduce not in ("mean", "max"):
        raise LabkitError(f"roi_warp: reduce must be 'mean' or 'max', not {reduce!r}")
    if sampling_ratio < 1:
        raise LabkitError(f"roi_warp: sampling_ratio must be 1 or more, not {sampling_ratio}")
    rois, (ph, pw) = check_rois(input, boxes, output_size, spatial_scale, name="roi_warp")
    cells = whole_cells(rois[:, 1:], spatial_scale)
    edges = torch.cat([rois[:, :1], cells[:, :2], cells[:, 2:] + 1], dim=1)  # (K, 5)
    if reduce == "mean":
        return roi_align(input, edges, (ph, pw), 1.0, sampling_ratio, aligned=True)
    # s bins of one sample each lie exactly where one bin has its s samples.
    s = sampling_ratio
    samples = roi_align(input, edges, (ph * s, pw * s), 1.0, 1, aligned=True)
    return F.max_pool2d(samples, s)  # (K, C, ph, pw)
