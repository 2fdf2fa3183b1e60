"""UPSNet on one page: Mask R-CNN, a deformable semantic head, a panoptic head without weights.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019. Where Panoptic FPN
merges two answers by rules, here the logits of both branches become one logit a pixel for every
stuff class, every object and "unknown", so that one softmax decides and one loss trains both.

In this order: this file, ``semantic_head.py``, ``panoptic_head.py``, ``losses.py`` and
``postprocess.py``. Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` categories,
``T`` of them things, ``k`` proposals, ``n`` objects, ``m`` side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import nms

from labkit.models.rcnn.mask_head import masks_of
from labkit.models.rcnn.mask_rcnn import MaskRCNN
from labkit.models.rcnn.mask_rcnn_config import MaskRCNNConfig
from labkit.models.rcnn.paste_masks import paste_masks_resized
from labkit.models.rcnn.roi_heads import Found
from labkit.models.rcnn.roi_pooler import pool
from labkit.models.semantic.losses import cross_entropy, semantic_truth
from labkit.models.semantic.semantic_model import upsample
from labkit.models.upsnet.losses import labels_in_boxes, panoptic_loss, with_box
from labkit.models.upsnet.panoptic_head import prune, resized_masks, windows_of
from labkit.models.upsnet.postprocess import STRIDE, FusionConfig, at_size, fuse, settle
from labkit.models.upsnet.semantic_head import DeformableConfig, DeformableHead
from labkit.ops.boxes import clip_boxes
from labkit.structures import Categories, Detections, Panoptic, Prediction, Target


@dataclass(frozen=True, kw_only=True)
class UPSNetConfig(MaskRCNNConfig):
    """A Mask R-CNN's numbers and these.

    Attributes:
        semantic: of the semantic head.
        fusion: of the panoptic map.
        semantic_weight, roi_weight, panoptic_weight: of ``loss_sem_seg``, ``loss_sem_seg_roi`` and
            ``loss_panoptic``; a loss without weight is left out.
        held_back: share of the objects that have no box in the panoptic loss.
    """

    semantic: DeformableConfig
    fusion: FusionConfig
    semantic_weight: float = 0.2
    roi_weight: float = 0.04
    panoptic_weight: float = 0.1
    held_back: float = 0.3

    def build(self, categories: Categories) -> UPSNet:
        """A model with fresh weights."""
        return UPSNet(self, categories)


class UPSNet(MaskRCNN):
    """Objects, a class for every pixel, and the panoptic map that both branches decide together.

    Args:
        config: every number, and the parts.
        categories: things and stuff.
    """

    config: UPSNetConfig

    def __init__(self, config: UPSNetConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        inputs = self.backbone.channels[config.semantic.levels[0]]
        self.sem_seg_head = DeformableHead(inputs, len(categories), config.semantic)

    def losses(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Those of Mask R-CNN, ``loss_sem_seg``, ``loss_sem_seg_roi`` and ``loss_panoptic``."""
        config = self.config
        truth = semantic_truth(targets, len(self.categories), padded)  # (B, H, W)
        losses = super().losses(features, padded, sizes, targets)
        scores = self.sem_seg_head(features).float()  # (B, C, H/4, W/4)
        losses["loss_sem_seg"] = config.semantic_weight * cross_entropy(
            upsample(scores, padded), truth
        )
        boxes = [target["boxes"] for target in targets]
        if config.roi_weight > 0:
            side = 2 * config.roi.mask_size
            # The paper pools the maps and scores the windows. Scoring is linear and the weights of
            # a sample add up to 1, so that pooling the scores is the same with fewer channels.
            level = config.semantic.levels[0]
            pooler = replace(config.roi.pooler, levels=(level,))
            inside = pool({level: scores}, boxes, {level: STRIDE}, side, pooler)
            losses["loss_sem_seg_roi"] = config.roi_weight * cross_entropy(
                inside,  # (n, C, side, side)
                labels_in_boxes(truth, boxes, side),
            )
        if config.panoptic_weight > 0:
            kept = [with_box(len(b), config.held_back).to(b.device) for b in boxes]
            masks = self._masks_in(
                features,
                [b[k] for b, k in zip(boxes, kept, strict=True)],
                [t["labels"][k] for t, k in zip(targets, kept, strict=True)],
            )
            each = [
                panoptic_loss(*parts, len(self.categories.things))
                for parts in zip(scores, truth, targets, kept, masks, strict=True)
            ]
            losses["loss_panoptic"] = config.panoptic_weight * torch.stack(each).mean()
        return losses

    def predictions(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        inner: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Prediction]:
        """``detections`` as Mask R-CNN has them, ``semantic``, and ``panoptic``.

        The panoptic map is made of objects of its own: fewer, surer ones that do not overlap.
        """
        proposals, _, _ = self.rpn(features, padded, inner)
        scored = self.roi_heads.scored(features, proposals, inner)
        ordinary = [self.roi_heads.choose(*one) for one in scored]
        of_map = [self.candidates(*one) for one in scored]
        masks = self._mask_logits(features, ordinary, of_map)
        scores = self.sem_seg_head(features).float()  # (B, C, H/4, W/4)
        predictions = []
        for i, (a, b) in enumerate(zip(inner, sizes, strict=True)):
            detections = self.detections(ordinary[i], masks[i][0].sigmoid(), a, b)
            semantic, panoptic = self.fused(scores[i], of_map[i], masks[i][1], a, b)
            predictions.append(Prediction(detections, semantic, panoptic))
        return predictions

    def candidates(self, scores: Tensor, boxes: Tensor) -> Found:
        """The objects for the panoptic map, best first: sure ones that do not overlap.

        Args:
            scores: ``(k, T)``.
            boxes: ``(k, T, 4)``.
        """
        config = self.config.fusion
        row, label = (scores > config.score).nonzero(as_tuple=True)
        value, chosen = scores[row, label], boxes[row, label]
        keep = nms(chosen, value, config.nms)  # whatever the classes
        if len(keep) > config.detections:
            keep = keep[value[keep] >= value[keep[config.detections - 1]]]
        return Found(chosen[keep], value[keep], label[keep])

    def fused(
        self,
        scores: Tensor,
        found: Found,
        masks: Tensor,
        inner: tuple[int, int],
        size: tuple[int, int],
    ) -> tuple[Tensor, Panoptic]:
        """The semantic map ``(H', W')`` and the panoptic map of one image.

        Args:
            scores: ``(C, h, w)`` semantic logits.
            found: n objects, best first.
            masks: ``(n, m, m)`` logits.
            inner: (height, width) of the network's image.
            size: (H', W') of the output.
        """
        config = self.config.fusion
        classes, things = len(self.categories), len(self.categories.things)
        windows = windows_of(found.boxes, inner)
        large = resized_masks(masks, windows.mask)
        if config.prune and large:
            kept = prune(large, windows.mask, found.labels, inner, config.overlap)
            if not kept:  # no mask has a pixel: the best object goes on without
                kept, large = [0], [torch.zeros_like(large[0])]
            else:
                large = [large[i] for i in kept]
            found = Found(found.boxes[kept], found.scores[kept], found.labels[kept])
            windows = windows_of(found.boxes, inner)
        fused = fuse(scores, things, found.labels, large, windows, inner, config.unknown)
        fused = at_size(fused, size, self._scale(inner, size))
        panoptic = settle(
            fused, found.labels, found.scores, classes, things, config.majority, config.stuff_area
        )
        return fused.semantic, panoptic

    def detections(
        self, found: Found, masks: Tensor | None, inner: tuple[int, int], size: tuple[int, int]
    ) -> Detections:
        """As Mask R-CNN's; of boxes from pixel to pixel the pixels' coordinates are scaled."""
        if not self.config.roi.plus_one:
            return super().detections(found, masks, inner, size)
        assert masks is not None
        y, x = self._scale(inner, size)
        last_pixel = found.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        between = (found.boxes - last_pixel) / found.boxes.new_tensor([x, y, x, y])
        boxes = clip_boxes(between + last_pixel, size, plus_one=True)
        pasted = paste_masks_resized(masks, boxes - last_pixel, size)
        return Detections(boxes, found.scores, found.labels, pasted)

    def _scale(self, inner: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
        """Pixels of the network's image per pixel of the output, along y and x."""
        conventions = self.config.conventions
        if conventions.resize == "opencv":
            scale = conventions.scale(size)
            if inner == (round(size[0] * scale), round(size[1] * scale)):
                return scale, scale
        return inner[0] / size[0], inner[1] / size[1]

    def _mask_logits(
        self, features: dict[str, Tensor], first: Sequence[Found], second: Sequence[Found]
    ) -> list[tuple[Tensor, Tensor]]:
        """Mask logits ``(n, m, m)`` for two lists of objects an image; what is in both, once."""
        boxes, labels, back = [], [], []
        for a, b in zip(first, second, strict=True):
            rows = [torch.cat([f.boxes, f.labels[:, None].to(f.boxes)], dim=1) for f in (a, b)]
            unique, index = torch.unique(torch.cat(rows), dim=0, return_inverse=True)
            boxes.append(unique[:, :4])
            labels.append(unique[:, 4].long())
            back.append(index.split([len(a.boxes), len(b.boxes)]))
        masks = self._masks_in(features, boxes, labels)
        return [(of_image[i], of_image[j]) for of_image, (i, j) in zip(masks, back, strict=True)]

    def _masks_in(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Mask logits ``(n, m, m)`` of given classes in given boxes, by image."""
        assert self.roi_heads.mask_head is not None
        logits = self.roi_heads.mask_head(self.roi_heads.mask_features(features, boxes))
        masks = masks_of(logits, torch.cat(list(labels))).float()
        return list(masks.split([len(b) for b in boxes]))
