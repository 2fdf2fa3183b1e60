"""UPSNet on one page: Mask R-CNN, a deformable semantic head, a parameter-free panoptic head.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019. Where Panoptic FPN
merges two outputs by rules, here the logits of both branches become one logit per pixel for every
stuff class, every object and "unknown": one softmax decides each pixel, and the panoptic loss
trains both branches.

Read next ``semantic_head.py``, ``panoptic_head.py``, ``postprocess.py`` and ``losses.py``. Letters
in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` categories (things first), ``T`` of them
things, ``k`` proposals, ``n`` objects, ``m`` resolution of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import Batch, Preprocessing, preprocess
from labkit.models.rcnn.roi_heads import RoIHeadsConfig, build_roi_heads
from labkit.models.rcnn.roi_pooler import pool
from labkit.models.rcnn.rpn import RPN, RPNConfig
from labkit.models.semantic.losses import cross_entropy, semantic_targets
from labkit.models.targets import check_targets
from labkit.models.upsnet.losses import crop_labels, panoptic_loss, sample_known
from labkit.models.upsnet.panoptic_argmax import STRIDE
from labkit.models.upsnet.postprocess import (
    PanopticConfig,
    input_scale,
    panoptic_maps,
    paste_upsnet_detections,
)
from labkit.models.upsnet.semantic_head import DeformableHead, DeformableHeadConfig
from labkit.structures import Categories, Detections, Prediction, Target


@dataclass(frozen=True)
class UPSNetConfig:
    """UPSNet configuration.

    Attributes:
        preprocessing: of the images.
        backbone: residual network, with or without pyramid.
        rpn: of the proposals.
        roi_heads: of the detections.
        semantic_head: of the semantic branch.
        panoptic: of the panoptic map.
        semantic_loss_weight, roi_loss_weight, panoptic_loss_weight: of ``loss_sem_seg``,
            ``loss_sem_seg_roi`` and ``loss_panoptic``; a loss without weight is left out.
        unknown_ratio: fraction of the ground-truth objects that have no panoptic logit in training;
            their pixels have the target "unknown" (30 % in the paper).
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    rpn: RPNConfig
    roi_heads: RoIHeadsConfig
    semantic_head: DeformableHeadConfig
    panoptic: PanopticConfig
    semantic_loss_weight: float = 0.2
    roi_loss_weight: float = 0.04
    panoptic_loss_weight: float = 0.1
    unknown_ratio: float = 0.3

    def build(self, categories: Categories) -> UPSNet:
        """A model with fresh weights."""
        return UPSNet(self, categories)


@dataclass(frozen=True)
class UPSNetOutput:
    """Raw output of a UPSNet.

    Attributes:
        detections: for each image, after NMS per class as in Mask R-CNN; boxes in pixels of the
            network's input, without masks.
        mask_logits: ``(n, m, m)`` of the detections' classes for each image.
        panoptic_detections: for each image, the objects that may enter the panoptic map: after
            class-agnostic NMS.
        panoptic_mask_logits: ``(n, m, m)`` of their classes for each image.
        sem_seg_logits: ``(B, C, H/4, W/4)``.
    """

    detections: list[Detections]
    mask_logits: list[Tensor]
    panoptic_detections: list[Detections]
    panoptic_mask_logits: list[Tensor]
    sem_seg_logits: Tensor


class UPSNet(nn.Module):
    """UPSNet: objects, a class for every pixel, and one panoptic map decided by both branches.

    Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019. Notebook 05,
    section 5.5.

    Args:
        config: the configuration.
        categories: things and stuff.

    Raises:
        LabkitError: there are no things.
    """

    def __init__(self, config: UPSNetConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = config.backbone.build()
        channels, strides = self.backbone.channels[config.rpn.levels[0]], self.backbone.strides
        self.rpn = RPN(channels, strides, config.rpn)
        self.roi_heads = build_roi_heads(
            config.backbone, channels, strides, categories, config.roi_heads
        )
        in_channels = self.backbone.channels[config.semantic_head.levels[0]]
        self.sem_seg_head = DeformableHead(in_channels, len(categories), config.semantic_head)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, height, width)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels``, ``masks`` and ``semantic``; in training
                mode only.

        Returns:
            Training: :meth:`losses`. Evaluation: B predictions with ``detections``, ``semantic``
            and ``panoptic`` in pixels of the images.

        Raises:
            LabkitError: an image of another type, or targets that do not fit the categories.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """Those of Mask R-CNN, ``loss_sem_seg``, ``loss_sem_seg_roi`` and ``loss_panoptic``."""
        config = self.config
        targets = check_targets(targets, len(self.categories.things))
        gt_labels = semantic_targets(targets, len(self.categories), batch.padded_size)  # (B, H, W)
        proposals, losses = self.rpn(features, batch, targets)
        losses |= self.roi_heads.losses(features, proposals, targets)
        logits = self.sem_seg_head(features).float()  # (B, C, H/4, W/4)
        large = resize_bilinear(logits, batch.padded_size)  # (B, C, H, W)
        losses["loss_sem_seg"] = config.semantic_loss_weight * cross_entropy(large, gt_labels)
        if config.roi_loss_weight > 0:
            gt_boxes = [target["boxes"] for target in targets]
            loss = self.roi_loss(logits, gt_labels, gt_boxes)
            losses["loss_sem_seg_roi"] = config.roi_loss_weight * loss
        if config.panoptic_loss_weight > 0:
            loss = self.panoptic_loss(features, logits, gt_labels, targets)
            losses["loss_panoptic"] = config.panoptic_loss_weight * loss
        return losses

    def roi_loss(self, logits: Tensor, gt_labels: Tensor, gt_boxes: Sequence[Tensor]) -> Tensor:
        """The semantic loss once more, in the ground-truth boxes alone.

        The paper pools the feature maps and classifies the pooled features. Classification is
        linear and the weights of a sample add up to 1, so that pooling the logits gives the same
        with fewer channels.

        Args:
            logits: ``(B, C, H/4, W/4)`` of the semantic head.
            gt_labels: ``(B, H, W)``.
            gt_boxes: ``(n, 4)`` for each image.
        """
        config, level = self.config, self.config.semantic_head.levels[0]
        resolution = 2 * config.roi_heads.mask_resolution
        pooler = replace(config.roi_heads.pooler, levels=(level,))
        roi_logits = pool({level: logits}, gt_boxes, {level: STRIDE}, resolution, pooler)
        roi_labels = crop_labels(gt_labels, gt_boxes, resolution)
        return cross_entropy(roi_logits, roi_labels)  # of (n of all images, C, ., .)

    def panoptic_loss(
        self,
        features: dict[str, Tensor],
        logits: Tensor,
        gt_labels: Tensor,
        targets: Sequence[Target],
    ) -> Tensor:
        """Mean over the images of the cross-entropy of the panoptic logits of ground-truth boxes.

        Args:
            features: ``(B, D, h, w)`` by level name.
            logits: ``(B, C, H/4, W/4)`` of the semantic head.
            gt_labels: ``(B, H, W)``.
            targets: B targets.
        """
        known, boxes, labels = [], [], []
        for target in targets:
            idxs = sample_known(len(target["boxes"]), self.config.unknown_ratio)
            known.append(idxs.to(target["boxes"].device))
            boxes.append(target["boxes"][known[-1]])
            labels.append(target["labels"][known[-1]])
        mask_logits = self.roi_heads.mask_logits(features, boxes, labels)
        each = [
            panoptic_loss(*of_image, len(self.categories.things))
            for of_image in zip(logits, gt_labels, targets, known, mask_logits, strict=True)
        ]
        return torch.stack(each).mean()

    def predict(self, features: dict[str, Tensor], batch: Batch) -> UPSNetOutput:
        """Outputs of both branches from feature maps ``(B, D, h, w)`` by level name."""
        proposals, _ = self.rpn(features, batch)
        scored = self.roi_heads.score_proposals(features, proposals, batch.input_sizes)
        detections = [self.roi_heads.select(scores, boxes) for scores, boxes in scored]
        panoptic_detections = [self.select_for_panoptic(scores, boxes) for scores, boxes in scored]
        mask_logits, panoptic_mask_logits = self._mask_logits(
            features, detections, panoptic_detections
        )
        sem_seg_logits = self.sem_seg_head(features).float()  # (B, C, H/4, W/4)
        return UPSNetOutput(
            detections, mask_logits, panoptic_detections, panoptic_mask_logits, sem_seg_logits
        )

    def postprocess(
        self, output: UPSNetOutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Detections, semantic maps and panoptic maps, in pixels of the original images.

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: objects at or below it do not enter the panoptic map; None: the
                configuration's.
        """
        config = self.config
        predictions = []
        if score_thresh is None:
            score_thresh = config.panoptic.score_thresh
        for i, image_size in enumerate(batch.image_sizes):
            scale = input_scale(batch.input_sizes[i], image_size, config.preprocessing)
            detections = paste_upsnet_detections(
                output.detections[i],
                output.mask_logits[i],
                batch.input_sizes[i],
                image_size,
                scale,
                config.roi_heads.plus_one,
            )
            # Only higher-scored objects suppress an object: what suppression left above a threshold
            # is what it would have left without the objects below.
            keep = output.panoptic_detections[i].scores > score_thresh
            semantic, panoptic = panoptic_maps(
                output.sem_seg_logits[i],
                output.panoptic_detections[i][keep],
                output.panoptic_mask_logits[i][keep],
                len(self.categories.things),
                batch.input_sizes[i],
                image_size,
                scale,
                config.panoptic,
            )
            predictions.append(Prediction(detections, semantic, panoptic))
        return predictions

    def select_for_panoptic(self, scores: Tensor, boxes: Tensor) -> Detections:
        """Threshold and suppress the boxes of one image by class-agnostic NMS.

        Args:
            scores: ``(k, T)``.
            boxes: ``(k, T, 4)``.
        """
        config = self.config.panoptic
        row, labels = (scores > self.config.roi_heads.score_thresh).nonzero(as_tuple=True)
        scores, boxes = scores[row, labels], boxes[row, labels]
        keep = nms(boxes, scores, config.nms_thresh)
        if len(keep) > config.max_detections:
            keep = keep[scores[keep] >= scores[keep[config.max_detections - 1]]]
        return Detections(boxes[keep], scores[keep], labels[keep])

    def _mask_logits(
        self, features: dict[str, Tensor], first: Sequence[Detections], second: Sequence[Detections]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Mask logits ``(n, m, m)`` of two lists of objects per image; what is in both, once."""
        boxes, labels, back = [], [], []
        for a, b in zip(first, second, strict=True):
            rows = [torch.cat([d.boxes, d.labels[:, None].to(d.boxes)], dim=1) for d in (a, b)]
            unique, index = torch.unique(torch.cat(rows), dim=0, return_inverse=True)
            boxes.append(unique[:, :4])
            labels.append(unique[:, 4].long())
            back.append(index.split([len(a), len(b)]))
        logits = self.roi_heads.mask_logits(features, boxes, labels)
        first_logits = [image_logits[i] for image_logits, (i, _) in zip(logits, back, strict=True)]
        second_logits = [image_logits[j] for image_logits, (_, j) in zip(logits, back, strict=True)]
        return first_logits, second_logits
