"""Outputs, sampling points and cell weights of RoIPool, RoIWarp and RoIAlign for one box.

All values come from ``labkit.ops``; those of RoIWarp and RoIAlign from the loop over single samples
that defines the operator. The weight of a cell is the derivative of a bin's value with respect to
it. RoIPool's cells are found by pooling a map that holds each cell's index.

Coordinates are in cells, counted in edges: the cell in row r and column c covers ``[c, c + 1]``
along x and ``[r, r + 1]`` along y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops.roi_align import bilinear, roi_align
from labkit.ops.roi_align_separable import axis_samples
from labkit.ops.roi_pool import roi_pool, whole_cells

OPERATORS = ("RoIPool", "RoIWarp", "RoIAlign")
MOST_BINS = 8
MOST_SAMPLES = 4


@dataclass(frozen=True)
class Tap:
    """One of the cells that a sample interpolates."""

    row: int
    column: int
    weight: float
    value: float


@dataclass(frozen=True)
class Sample:
    """A sampling point; outside the map it has no taps and the value 0."""

    x: float
    y: float
    taps: tuple[Tap, ...]
    value: float


@dataclass(frozen=True)
class OperatorSamples:
    """Output of an operator for a box, with the samples and weights of one bin.

    Attributes:
        operator: a name in ``OPERATORS``.
        region: the region that it pools, ``(x1, y1, x2, y2)``.
        output: ``(bins, bins)``.
        selected: (row, column) of the explained bin.
        bin: its part of the region, ``(x1, y1, x2, y2)``; RoIPool's is rounded outwards.
        samples: the points that the bin averages; none for RoIPool.
        weights: ``(H, W)``, weight of each cell in the bin's value.
    """

    operator: str
    region: tuple[float, ...]
    output: np.ndarray
    selected: tuple[int, int]
    bin: tuple[float, ...]
    samples: tuple[Sample, ...]
    weights: np.ndarray

    @property
    def value(self) -> float:
        """Value of the selected bin."""
        return float(self.output[self.selected])


def sample_operators(
    features: Tensor,
    box: Sequence[float],
    *,
    bins: int = 4,
    samples: int = 2,
    selected: tuple[int, int] = (0, 0),
) -> dict[str, OperatorSamples]:
    """Apply the three operators to one box of one channel.

    Args:
        features: ``(H, W)``.
        box: ``(x1, y1, x2, y2)`` in cells.
        bins: the box is divided into bins × bins, 1 to ``MOST_BINS``.
        samples: samples × samples points are averaged in a bin, 1 to ``MOST_SAMPLES``.
        selected: (row, column) of the bin to explain, from 0.

    Returns:
        The samples by name in ``OPERATORS``. RoIAlign has ``aligned=True``.

    Raises:
        LabkitError: an argument of the wrong shape or range.
    """
    _check(features, box, bins, samples, selected)
    cells = features.detach().cpu().double()
    rois = torch.tensor([list(box)], dtype=torch.float64)
    whole = whole_cells(rois, 1.0)
    rounded = torch.cat([whole[:, :2], whole[:, 2:] + 1], dim=1)
    return {
        "RoIPool": _pooled(cells, rois, rounded, bins, selected),
        "RoIWarp": _sampled("RoIWarp", cells, rounded, bins, samples, selected),
        "RoIAlign": _sampled("RoIAlign", cells, rois, bins, samples, selected),
    }


def _pooled(
    cells: Tensor, rois: Tensor, rounded: Tensor, bins: int, selected: tuple[int, int]
) -> OperatorSamples:
    height, width = cells.shape
    with torch.enable_grad():
        map_ = cells.clone().requires_grad_()
        output = roi_pool(map_[None, None], [rois], bins)[0, 0]
        weights = _derivative(output[selected], map_)
    # The largest row number in a bin is its last row, the largest counted from below its first.
    row = torch.arange(1.0, height + 1, dtype=torch.float64)[:, None].expand(height, width)
    column = torch.arange(1.0, width + 1, dtype=torch.float64).expand(height, width)
    places = torch.stack([width + 1 - column, height + 1 - row, column, row])
    left, top, right, bottom = roi_pool(places[None], [rois], bins)[0, :, *selected].tolist()
    bin_ = (width - left, height - top, right, bottom)
    if right == 0:  # a bin off the map has no cells
        bin_ = (0.0, 0.0, 0.0, 0.0)
    region = tuple(rounded[0].tolist())
    return OperatorSamples(
        "RoIPool", region, output.detach().numpy(), selected, bin_, (), weights.numpy()
    )


def _sampled(
    operator: str, cells: Tensor, edges: Tensor, bins: int, ratio: int, selected: tuple[int, int]
) -> OperatorSamples:
    with torch.enable_grad():
        map_ = cells.clone().requires_grad_()
        output = roi_align(map_[None, None], [edges], bins, 1.0, ratio, aligned=True, impl="loop")
        output = output[0, 0]
        weights = _derivative(output[selected], map_)
    along = [
        axis_samples(edges[:, i], edges[:, i + 2], bins, 1.0, ratio, aligned=True)[0][0]
        for i in (0, 1)
    ]  # x and y, (bins, ratio) each, measured from the centre of the first cell
    row, column = selected
    points = [
        _sample(cells, y, x) for y in along[1][row].tolist() for x in along[0][column].tolist()
    ]
    x1, y1, x2, y2 = edges[0].tolist()
    w, h = (x2 - x1) / bins, (y2 - y1) / bins
    bin_ = (x1 + column * w, y1 + row * h, x1 + (column + 1) * w, y1 + (row + 1) * h)
    return OperatorSamples(
        operator,
        (x1, y1, x2, y2),
        output.detach().numpy(),
        selected,
        bin_,
        tuple(points),
        weights.numpy(),
    )


def _sample(cells: Tensor, y: float, x: float) -> Sample:
    """Take one bilinear sample at a point measured from the centre of the first cell."""
    with torch.enable_grad():
        map_ = cells.clone().requires_grad_()
        value = bilinear(map_[None], y, x)[0]
        weights = _derivative(value, map_)
    taps = tuple(
        Tap(r, c, float(weights[r, c]), float(cells[r, c])) for r, c in weights.nonzero().tolist()
    )
    return Sample(x + 0.5, y + 0.5, taps, float(value.detach()))


def _derivative(value: Tensor, map_: Tensor) -> Tensor:
    if not value.requires_grad:  # nothing of the map is in it: all samples lie off the map
        return torch.zeros_like(map_)
    (weights,) = torch.autograd.grad(value, map_)
    return weights


def _check(
    features: Tensor, box: Sequence[float], bins: int, samples: int, selected: tuple[int, int]
) -> None:
    if features.ndim != 2 or 0 in features.shape:
        raise LabkitError(
            f"features: one channel (H, W) is needed, got {tuple(features.shape)}; "
            "pick one, such as features[channel]"
        )
    if not bool(features.isfinite().all()):
        raise LabkitError("features: the map holds values that are not finite")
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise LabkitError(f"box: four finite numbers x1, y1, x2, y2 in cells, got {list(box)}")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise LabkitError(f"box: x1 < x2 and y1 < y2 is needed, got {list(box)}")
    for name, value, most in (("bins", bins, MOST_BINS), ("samples", samples, MOST_SAMPLES)):
        if not 1 <= value <= most:
            raise LabkitError(f"{name}: must be 1 to {most}, got {value}")
    if not all(0 <= i < bins for i in selected):
        raise LabkitError(
            f"selected: row and column must be 0 to {bins - 1} with {bins} × {bins} bins, "
            f"got {selected}"
        )
