"""Outputs of a region proposal network at each pyramid level, before NMS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from labkit.errors import LabkitError
from labkit.models.preprocess import Batch, preprocess
from labkit.models.rcnn.rpn import BOX_WEIGHTS, RPN
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
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        config: Any = model.config
        preprocessing = replace(config.preprocessing, resize=None)
        batch = preprocess([image.to(device)], preprocessing)
        features = model.backbone(batch.tensor)  # type: ignore[operator]
        objectness, deltas = rpn.predict(features)
        parts = zip(
            rpn.config.levels, rpn.anchors(features, batch), objectness, deltas, strict=True
        )
        return tuple(
            _level(rpn, i, features[name].shape[2:], batch, anchors, logits[0], offsets[0])
            for i, (name, anchors, logits, offsets) in enumerate(parts)
        )
    finally:
        model.train(training)


def _level(
    rpn: RPN,
    i: int,
    shape: Sequence[int],
    batch: Batch,
    anchors: Tensor,
    logits: Tensor,
    offsets: Tensor,
) -> PyramidLevel:
    config = rpn.config
    name = config.levels[i]
    anchors, logits = anchors.cpu(), logits.cpu()  # (h w A, 4) and (h w A,)
    boxes = decode_boxes(offsets.cpu(), anchors, BOX_WEIGHTS)  # (h w A, 4)
    boxes = clip_boxes(boxes, batch.input_sizes[0], config.plus_one)
    usable = boxes.isfinite().all(dim=1) & logits.isfinite() & larger_than(boxes, config.min_size)
    return PyramidLevel(
        name,
        rpn.strides[name],
        (shape[0], shape[1]),
        config.anchor_sizes[i],
        config.aspect_ratios,
        anchors,
        boxes,
        logits.sigmoid(),
        logits.sigmoid() if config.rank_by_probability else logits,
        usable,
        config.nms_thresh,
    )
