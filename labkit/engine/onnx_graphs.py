"""The parts of the models that ``labkit export`` writes as ONNX graphs.

NMS and top-k stand in the middle of an R-CNN, and how many boxes they leave depends on the image.
There the network is cut: :class:`Features`, :class:`Boxes` and :class:`Masks` have fixed steps, and
:mod:`labkit.deploy` does the rest. The other models are one graph each.

Letters in shapes: ``Q`` queries, ``K`` boxes, ``D`` channels, ``h × w`` the map of a level, ``n``
its anchors, ``s`` resolution of the pooled features, ``m`` of a mask, ``T`` things, ``C``
categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from labkit.models.preprocess import Batch
from labkit.models.rcnn.mask_head import select_class
from labkit.models.rcnn.roi_heads import RoIHeads
from labkit.models.rcnn.roi_pooler import assign_level


class Features(nn.Module):
    """From the image to all that does not depend on boxes.

    Args:
        model: a Mask R-CNN, Panoptic FPN or UPSNet.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.semantic = hasattr(model, "sem_seg_head")
        self.maps, levels = model.config.roi_heads.pooler.levels, model.config.rpn.levels
        anchors = [f"{kind}_{name}" for kind in ("objectness", "deltas") for name in levels]
        self.outputs = [*self.maps, *anchors]
        if self.semantic:
            self.outputs.append("sem_seg_logits")

    def forward(self, image: Tensor) -> list[Tensor]:
        """``image`` ``(1, 3, H, W)`` to the tensors that ``outputs`` names.

        They are the pooler's maps ``(1, D, h, w)``, objectness ``(1, n)`` and deltas ``(1, n, 4)``
        of each level and, with a semantic branch, its logits ``(1, ., H/4, W/4)``.
        """
        features = self.model.backbone(image)
        objectness, deltas = self.model.rpn.predict(features)
        outputs = [*(features[name] for name in self.maps), *objectness, *deltas]
        if self.semantic:
            outputs.append(self.model.sem_seg_head(features))
        return outputs


class Boxes(nn.Module):
    """From boxes to their class probabilities ``(K, T + 1)`` and deltas ``(K, 4 T)``.

    Args:
        heads: of the model.
    """

    outputs = ("probabilities", "deltas")

    def __init__(self, heads: RoIHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, boxes: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``boxes`` ``(K, 4)`` in pixels of the input; ``maps`` of :class:`Features`."""
        features = dict(zip(self.heads.config.pooler.levels, maps, strict=True))
        x = self.heads.box_features(features, [boxes])
        return self.heads.cls_score(x).softmax(dim=1), self.heads.bbox_pred(x)


class Masks(nn.Module):
    """From boxes and their labels to mask logits ``(K, m, m)`` and their probabilities.

    Args:
        heads: of the model.
    """

    outputs = ("masks", "mask_logits")

    def __init__(self, heads: RoIHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, boxes: Tensor, labels: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``boxes`` ``(K, 4)``, ``labels`` ``(K,)``, ``maps`` of :class:`Features`."""
        features = dict(zip(self.heads.config.pooler.levels, maps, strict=True))
        assert self.heads.mask_head is not None
        logits = self.heads.mask_head(self.heads.mask_features(features, [boxes]))
        logits = select_class(logits, labels)
        return logits.sigmoid(), logits


class Semantic(nn.Module):
    """From the image to the logits ``(1, C, H, W)`` of a semantic network."""

    outputs = ("logits",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """``image`` ``(1, 3, H, W)``."""
        logits: Tensor = self.model.predict(self.model.backbone(image), Batch(image, [], []))
        return logits


class MaskClassification(nn.Module):
    """From the image to a class ``(1, Q, .)`` and a mask ``(1, Q, h, w)`` of each query."""

    outputs = ("class_logits", "mask_logits")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` ``(1, 3, H, W)``."""
        output = self.model.predict(self.model.backbone(image), Batch(image, [], []))
        return output.class_logits, output.mask_logits


class DETRQueries(nn.Module):
    """From the image to a class, a box and, with a mask head, a mask of every query.

    Args:
        model: a DETR.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.masks = model.config.mask_channels is not None
        self.outputs = ["pred_logits", "pred_boxes"]
        if self.masks:
            self.outputs.append("mask_logits")

    def forward(self, image: Tensor, padding: Tensor) -> list[Tensor]:
        """Of an image ``(1, 3, H, W)`` and ``padding`` ``(1, H, W)`` bool.

        Returns:
            Logits ``(1, Q, .)``, boxes ``(1, Q, 4)`` and mask logits ``(1, Q, h, w)``.
        """
        batch = PaddedBatch(image, [], [], padding.float())
        output = self.model.decode(self.model.backbone(image), batch)
        outputs = [output.pred_logits[-1], output.pred_boxes[-1]]
        if self.masks:
            every_query = torch.arange(self.model.config.num_queries)
            outputs.append(self.model.masks(output, [every_query])[None])
        return outputs


@dataclass(frozen=True)
class PaddedBatch(Batch):
    """A batch whose padding is an input of the graph."""

    given: Tensor

    @property
    def padding(self) -> Tensor:
        return self.given


def pool_every_level(
    heads: RoIHeads, features: dict[str, Tensor], boxes: Sequence[Tensor], resolution: int
) -> Tensor:
    """Pool every box from every level, and choose: :meth:`RoIHeads.pool` with fixed steps.

    Args:
        heads: for levels and RoIAlign.
        features: ``(1, D, h, w)`` by level name.
        boxes: ``(K, 4)`` of the one image.
        resolution: s.

    Returns:
        ``(K, D, s, s)``.
    """
    config, (corners,) = heads.config.pooler, boxes
    level = assign_level(corners, config)  # (K,)
    if config.plus_one:
        corners = corners - corners.new_tensor([0.0, 0.0, 1.0, 1.0])
    rois = torch.cat([torch.zeros_like(corners[:, :1]), corners], dim=1)  # (K, 5)
    pooled = None
    for i, name in enumerate(config.levels):
        level_pooled = roi_align(
            features[name],
            rois,
            (resolution, resolution),
            spatial_scale=1.0 / heads.strides[name],
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
        )
        if pooled is None:
            pooled = level_pooled
        else:
            pooled = torch.where((level == i)[:, None, None, None], level_pooled, pooled)
    assert pooled is not None
    return pooled


def with_fixed_steps(model: Any) -> None:
    """Replace what cannot be exported by the same with fixed steps, in place."""
    if hasattr(model, "roi_heads"):
        model.roi_heads.pool = partial(pool_every_level, model.roi_heads)
