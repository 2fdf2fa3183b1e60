"""Outputs of a region proposal network at each pyramid level, before NMS."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.preprocess import check_images
from labkit.models.rcnn.anchors import cell_anchors, grid_anchors, legacy_cell_anchors
from labkit.models.rcnn.rpn import RPN, WEIGHTS
from labkit.ops.boxes import clip_boxes, decode_boxes, larger_than


@dataclass(frozen=True)
class PyramidLevel:
    """RPN outputs of a pyramid level: ``h × w`` cells with ``A`` anchors each, sizes before ratios.

    Attributes:
        name: name of the feature map.
        stride: distance of the cells in pixels.
        shape: ``(h, w)``.
        sizes: square roots of the anchors' areas, in pixels.
        ratios: aspect ratios, height / width.
        anchors: ``(h · w · A, 4)``.
        boxes: ``(h · w · A, 4)``, regressed boxes, clipped to the image.
        scores: ``(h · w · A,)``, objectness.
        ranks: ``(h · w · A,)``, the network's sort key: the scores or their logits.
        usable: ``(h · w · A,)`` bool, whether the regressed box is large enough for a proposal.
        nms: the network's NMS threshold.
    """

    name: str
    stride: int
    shape: tuple[int, int]
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    anchors: Tensor
    boxes: Tensor
    scores: Tensor
    ranks: Tensor
    usable: Tensor
    nms: float

    @property
    def per_cell(self) -> int:
        """Number A of anchors of a cell."""
        return len(self.sizes) * len(self.ratios)

    def of_cell(self, row: int, column: int) -> slice:
        """Indices of a cell's anchors."""
        first = (row * self.shape[1] + column) * self.per_cell
        return slice(first, first + self.per_cell)

    def cell_of(self, anchor: int) -> tuple[int, int]:
        """Cell (row, column) of an anchor."""
        row, column = divmod(anchor // self.per_cell, self.shape[1])
        return row, column

    @property
    def centres(self) -> Tensor:
        """Centres of the cells' anchors, ``(h · w, 2)`` x and y in pixels."""
        first = self.anchors[:: self.per_cell]
        return (first[:, :2] + first[:, 2:]) / 2

    def nearest_cell(self, x: float, y: float) -> tuple[int, int]:
        """Cell (row, column) whose anchors' centre is nearest to a point."""
        distance = (self.centres - torch.tensor([x, y])).square().sum(dim=1)
        return self.cell_of(int(distance.argmin()) * self.per_cell)

    def best(self, count: int) -> Tensor:
        """Indices of the ``count`` usable boxes with the highest scores, best first."""
        order = self.ranks.argsort(descending=True, stable=True)
        return order[self.usable[order]][:count]


@torch.no_grad()
def rpn_levels(model: nn.Module, image: Tensor) -> tuple[PyramidLevel, ...]:
    """Run a model's region proposal network and return its outputs for every anchor.

    Args:
        model: a detector or panoptic network of labkit.
        image: ``(3, H, W)`` uint8, at the network's input size.

    Raises:
        LabkitError: the model has no region proposal network, or ``image`` is not an image.
    """
    rpn = getattr(model, "rpn", None)
    if not isinstance(rpn, RPN):
        raise LabkitError(f"anchors_nms: {type(model).__name__} has no region proposal network")
    check_images([image])
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        maps, padded = model.features([image.to(device)])  # type: ignore[operator]
        size = (image.shape[1], image.shape[2])
        names = zip(rpn.config.levels, rpn.config.sizes, strict=True)
        return tuple(_level(rpn, maps[name], name, sizes, padded, size) for name, sizes in names)
    finally:
        model.train(training)


def _level(
    rpn: RPN,
    x: Tensor,
    name: str,
    sizes: tuple[float, ...],
    padded: tuple[int, int],
    size: tuple[int, int],
) -> PyramidLevel:
    config, (height, width) = rpn.config, x.shape[2:]
    stride = rpn.strides[name]
    step = (stride, stride)
    if config.strides_from_grid:
        step = (padded[0] // height, padded[1] // width)
    if config.legacy_anchors:
        cell = legacy_cell_anchors(sizes[0], config.ratios, stride)
    else:
        cell = cell_anchors(sizes, config.ratios, config.rounded)
    anchors = grid_anchors(cell, height, width, step)
    hidden = F.relu(rpn.conv(x))
    logits = rpn.objectness(hidden)[0].permute(1, 2, 0).flatten().float().cpu()  # (h w A,)
    offsets = rpn.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4).float()  # (h w A, 4)
    boxes = clip_boxes(decode_boxes(offsets.cpu(), anchors, WEIGHTS), size, config.plus_one)
    usable = boxes.isfinite().all(dim=1) & logits.isfinite() & larger_than(boxes, config.min_side)
    return PyramidLevel(
        name,
        stride,
        (height, width),
        sizes,
        config.ratios,
        anchors,
        boxes,
        logits.sigmoid(),
        logits.sigmoid() if config.by_probability else logits,
        usable,
        config.nms,
    )
