"""RoI heads: class, refined box and mask of every proposal.

R. Girshick, "Fast R-CNN", ICCV 2015; K. He et al., "Mask R-CNN", ICCV 2017. Two kinds of head:

- ``FPNHeads``: pool small feature maps from the pyramid level that fits a box (or from the one map
  of a dilated backbone, DC5), then fully connected layers, and convolutions for the mask.
- ``C4Heads``: pool from res4 and let res5, the backbone's last stage, be the head.

Letters in shapes: ``K`` proposals of all images, ``k`` of one, ``n`` detections of one, ``C`` thing
classes, background is class C, ``D`` channels of the map, ``s`` resolution of the pooled features,
``m`` resolution of the mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from labkit.errors import LabkitError
from labkit.models.backbones.backbone_config import BackboneConfig, res5_stage
from labkit.models.rcnn.mask_head import MaskHead, crop_masks, mask_loss, select_class
from labkit.models.rcnn.roi_losses import TrainingSamples, fastrcnn_loss, select_training_samples
from labkit.models.rcnn.roi_pooler import PoolerConfig, pool
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes, larger_than
from labkit.structures import Categories, Detections, Target

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class RoIHeadsConfig:
    """RoI heads configuration.

    Attributes:
        pooler: levels and RoIAlign.
        box_resolution: s of the box head; C4 has none and pools at ``mask_resolution``.
        representation_size: width of the fully connected layers; C4 has none.
        mask_resolution: s of the mask head.
        mask_channels: of the mask head's convolutions, the deconvolution last.
        batch_size_per_image, positive_fraction: proposals sampled for the loss.
        mask_batch_size_per_image: at most so many of the positives train the mask head, the most
            expensive one; None: all.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is L1.
        soft_mask_targets: mask targets are not thresholded at one half (torchvision).
        score_thresh: detections at or below it are dropped.
        nms_thresh: IoU above which of two detections of a class the lower-scored one is removed.
        detections_per_img: at most so many.
        min_size: detections must be longer than this on both sides.
        plus_one: boxes go from pixel to pixel (:mod:`labkit.ops.boxes`).
    """

    pooler: PoolerConfig
    box_resolution: int = 7
    representation_size: int = 1024
    mask_resolution: int = 14
    mask_channels: tuple[int, ...] = (256, 256, 256, 256, 256)
    batch_size_per_image: int = 512
    positive_fraction: float = 0.25
    mask_batch_size_per_image: int | None = None
    smooth_l1_beta: float = 0.0
    soft_mask_targets: bool = False
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_img: int = 100
    min_size: float = 0.0
    plus_one: bool = False


def build_roi_heads(
    backbone: BackboneConfig,
    channels: int,
    strides: dict[str, int],
    categories: Categories,
    config: RoIHeadsConfig,
    masks: bool = True,
) -> RoIHeads:
    """RoI heads with fresh weights for a backbone.

    Args:
        backbone: decides which kind.
        channels, strides: of its feature maps.
        categories: the things among them are the classes.
        config: the configuration.
        masks: with a mask head.

    Raises:
        LabkitError: there are no things.
    """
    num_classes = len(categories.things)
    if num_classes == 0:
        raise LabkitError(
            "categories: none of them is a thing, so there is nothing to detect; for stuff alone"
            " choose a semantic model, such as deeplab_tiny"
        )
    if backbone.kind != "c4":
        return FPNHeads(channels, strides, num_classes, config, masks)
    res5, out_channels = res5_stage(backbone)
    return C4Heads(res5, out_channels, strides, num_classes, config, masks)


class RoIHeads(nn.Module, ABC):
    """What both kinds share: sampling, losses, and the selection of detections.

    Args:
        in_features: channels that the classifier sees.
        strides: pixels per cell, by level name.
        num_classes: C.
        config: the configuration.
    """

    mask_head: MaskHead | None

    def __init__(
        self, in_features: int, strides: dict[str, int], num_classes: int, config: RoIHeadsConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        self.num_classes = num_classes
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    @abstractmethod
    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Features of the classifier ``(K, in_features)``, for boxes ``(k, 4)`` by image."""

    @abstractmethod
    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Features of the mask head ``(K, D, s, s)``, for boxes ``(k, 4)`` by image."""

    def pool(self, features: dict[str, Tensor], boxes: Sequence[Tensor], resolution: int) -> Tensor:
        """Features ``(K, D, s, s)`` of boxes ``(k, 4)`` by image, at a resolution s."""
        return pool(features, boxes, self.strides, resolution, self.config.pooler)

    def box_and_mask_features(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], num_masks: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """``box_features`` of all boxes and ``mask_features`` of those that train the mask head.

        One method for both, so that C4 runs res5 once.

        Args:
            features: ``(B, D, h, w)`` by level name.
            boxes: ``(k, 4)`` for each image, those with a mask first.
            num_masks: how many of each image's boxes have a mask.
        """
        x = self.box_features(features, boxes)
        if self.mask_head is None:
            return x, None
        with_masks = [b[:n] for b, n in zip(boxes, num_masks, strict=True)]
        return x, self.mask_features(features, with_masks)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        input_sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Detections], list[Tensor] | None]:
        """Detect objects.

        Args:
            features: ``(B, D, h, w)`` by level name.
            proposals: ``(k, 4)`` for each image.
            input_sizes: (height, width) of each image without padding.

        Returns:
            Detections for each image, without masks, and the mask logits ``(n, m, m)`` of their
            classes; None for a model without masks.
        """
        scored = self.score_proposals(features, proposals, input_sizes)
        detections = [self.select(scores, boxes) for scores, boxes in scored]
        if self.mask_head is None:
            return detections, None
        boxes, labels = [d.boxes for d in detections], [d.labels for d in detections]
        return detections, self.mask_logits(features, boxes, labels)

    def score_proposals(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        input_sizes: Sequence[tuple[int, int]],
    ) -> list[tuple[Tensor, Tensor]]:
        """Probabilities ``(k, C)`` and boxes ``(k, C, 4)`` of the proposals by class, by image."""
        x = self.box_features(features, proposals)
        scores = F.softmax(self.cls_score(x).float(), dim=1)[:, : self.num_classes]  # (K, C)
        boxes = decode_boxes(self.bbox_pred(x).float(), torch.cat(list(proposals)), BOX_WEIGHTS)
        counts = [len(p) for p in proposals]
        scored = []
        for score, box, size in zip(
            scores.split(counts), boxes.split(counts), input_sizes, strict=True
        ):
            finite = box.isfinite().all(dim=1) & score.isfinite().all(dim=1)
            score, box = score[finite], box[finite]
            box = box.unflatten(1, (self.num_classes, 4))
            scored.append((score, clip_boxes(box, size, self.config.plus_one)))
        return scored

    def select(self, scores: Tensor, boxes: Tensor) -> Detections:
        """Threshold and suppress the boxes of one image, class by class.

        Args:
            scores: ``(k, C)``.
            boxes: ``(k, C, 4)``.
        """
        config = self.config
        row, labels = (scores > config.score_thresh).nonzero(as_tuple=True)
        scores, boxes = scores[row, labels], boxes[row, labels]
        if config.min_size > 0:
            large = larger_than(boxes, config.min_size)
            scores, boxes, labels = scores[large], boxes[large], labels[large]
        keep = batched_nms(boxes, scores, labels, config.nms_thresh)[: config.detections_per_img]
        return Detections(boxes[keep], scores[keep], labels[keep])

    def mask_logits(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Mask logits ``(n, m, m)`` of given classes in given boxes, by image."""
        assert self.mask_head is not None
        logits = self.mask_head(self.mask_features(features, boxes))
        masks = select_class(logits, torch.cat(list(labels))).float()
        return list(masks.split([len(b) for b in boxes]))

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """``loss_cls`` over all sampled proposals, ``loss_box_reg`` and ``loss_mask`` over the
        positives.

        Args:
            features: ``(B, D, h, w)`` by level name.
            proposals: boxes ``(k, 4)`` for each image.
            targets: B targets with ``boxes``, ``labels`` and, with a mask head, ``masks``.
        """
        config = self.config
        samples = select_training_samples(
            proposals,
            targets,
            self.num_classes,
            config.batch_size_per_image,
            config.positive_fraction,
        )
        num_masks = [len(s.matched_idxs[: config.mask_batch_size_per_image]) for s in samples]
        boxes = [s.boxes for s in samples]
        x, roi_features = self.box_and_mask_features(features, boxes, num_masks)
        gt_boxes = torch.cat([s.gt_boxes for s in samples])
        pos_boxes = torch.cat([s.pos_boxes for s in samples])
        loss_cls, loss_box_reg = fastrcnn_loss(
            self.cls_score(x).float(),
            self.bbox_pred(x).float(),
            torch.cat([s.labels for s in samples]),
            encode_boxes(gt_boxes, pos_boxes, BOX_WEIGHTS),
            config.smooth_l1_beta,
        )
        losses = {"loss_cls": loss_cls, "loss_box_reg": loss_box_reg}
        if roi_features is not None:
            losses["loss_mask"] = self.mask_loss(roi_features, samples, targets, num_masks)
        return losses

    def mask_loss(
        self,
        roi_features: Tensor,
        samples: Sequence[TrainingSamples],
        targets: Sequence[Target],
        num_masks: Sequence[int],
    ) -> Tensor:
        """``loss_mask`` from :meth:`mask_features` of each image's first ``num_masks`` samples."""
        assert self.mask_head is not None
        logits = self.mask_head(roi_features).float()  # (K, C, m, m)
        resolution, soft = logits.shape[-1], self.config.soft_mask_targets
        mask_targets = [
            crop_masks(target["masks"], s.matched_idxs[:n], s.boxes[:n], resolution, soft)
            for s, target, n in zip(samples, targets, num_masks, strict=True)
        ]
        labels = [s.labels[:n] for s, n in zip(samples, num_masks, strict=True)]
        return mask_loss(logits, torch.cat(labels), torch.cat(mask_targets))


class FPNHeads(RoIHeads):
    """Fully connected layers for class and box, convolutions for the mask.

    Notebook 03, section 3.7.
    """

    def __init__(
        self,
        channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: RoIHeadsConfig,
        masks: bool,
    ) -> None:
        super().__init__(config.representation_size, strides, num_classes, config)
        self.box_head = BoxHead(channels * config.box_resolution**2, config.representation_size)
        self.mask_head = MaskHead(channels, config.mask_channels, num_classes) if masks else None

    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        roi_features = self.pool(features, boxes, self.config.box_resolution)  # (K, D, s, s)
        x: Tensor = self.box_head(roi_features)
        return x

    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.pool(features, boxes, self.config.mask_resolution)


class C4Heads(RoIHeads):
    """The backbone's last stage, run on the pooled features, for class, box and mask alike.

    Notebook 03, section 3.11. Of the configuration ``box_resolution`` and ``representation_size``
    have no effect.

    Args:
        res5: the stage, of stride 2.
        out_channels: its channels.
    """

    def __init__(
        self,
        res5: nn.Module,
        out_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: RoIHeadsConfig,
        masks: bool,
    ) -> None:
        super().__init__(out_channels, strides, num_classes, config)
        self.res5 = res5
        self.mask_head = (
            MaskHead(out_channels, config.mask_channels, num_classes) if masks else None
        )

    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.mask_features(features, boxes).mean(dim=(2, 3))

    def box_and_mask_features(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], num_masks: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        roi_features = self.mask_features(features, boxes)  # once: res5 is most of the work
        box_features = roi_features.mean(dim=(2, 3))
        if self.mask_head is None:
            return box_features, None
        by_image = roi_features.split([len(b) for b in boxes])
        with_masks = [x[:n] for x, n in zip(by_image, num_masks, strict=True)]
        return box_features, torch.cat(with_masks)

    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.res5(self.pool(features, boxes, self.config.mask_resolution))
        return x


class BoxHead(nn.Module):
    """Two fully connected layers."""

    def __init__(self, in_features: int, representation_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, representation_size)
        self.fc2 = nn.Linear(representation_size, representation_size)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(K, D, s, s)`` to ``(K, representation_size)``."""
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
