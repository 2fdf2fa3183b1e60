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

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from labkit.errors import LabkitError
from labkit.models.backbones.backbones import BackboneConfig, res5_stage
from labkit.models.rcnn.mask_head import MaskHead, crop_masks, mask_loss, select_class
from labkit.models.rcnn.matcher import match_boxes, sample_boxes
from labkit.models.rcnn.roi_pooler import PoolerConfig, pool
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes, larger_than
from labkit.structures import Categories, Detections, Target

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class RoIHeadsConfig:
    """RoI heads configuration.

    Attributes:
        pooler: levels and RoIAlign.
        box_resolution: s of the box head.
        representation_size: width of the fully connected layers.
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


class RoIHeads(nn.Module):
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
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], first: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """For training, ``box_features`` of all boxes and ``mask_features`` of the first ones.

        Args:
            features: ``(B, D, h, w)`` by level name.
            boxes: ``(k, 4)`` for each image.
            first: how many of each image's boxes have a mask.
        """
        x = self.box_features(features, boxes)
        if self.mask_head is None:
            return x, None
        return x, self.mask_features(features, [b[:n] for b, n in zip(boxes, first, strict=True)])

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

        The box loss is divided by *all* that were sampled: divided by the positives, an image with
        few of them would weight each one more.
        """
        config = self.config
        boxes, labels = [], []  # of all sampled proposals, by image
        pos_proposals, pos_matched_idxs = [], []
        for of_image, target in zip(proposals, targets, strict=True):
            # Ground-truth boxes join in, so that there are positives before the RPN finds any.
            candidates = torch.cat([of_image.detach(), target["boxes"]])
            iou = box_iou(target["boxes"], candidates)
            matched_idxs, match_labels = match_boxes(iou, 0.5, 0.5, allow_low_quality=False)
            positive, negative = sample_boxes(
                match_labels, config.batch_size_per_image, config.positive_fraction
            )
            pos_proposals.append(candidates[positive])
            pos_matched_idxs.append(matched_idxs[positive])
            boxes.append(torch.cat([pos_proposals[-1], candidates[negative]]))
            background = torch.full_like(negative, self.num_classes)
            labels.append(torch.cat([target["labels"][pos_matched_idxs[-1]], background]))
        mask_proposals = [p[: config.mask_batch_size_per_image] for p in pos_proposals]
        x, roi_features = self.box_and_mask_features(
            features, boxes, [len(p) for p in mask_proposals]
        )
        scores, deltas = self.cls_score(x).float(), self.bbox_pred(x).float()
        label = torch.cat(labels)
        positive = (label < self.num_classes).nonzero()[:, 0]
        gt_boxes = torch.cat(
            [t["boxes"][i] for t, i in zip(targets, pos_matched_idxs, strict=True)]
        )
        delta_targets = encode_boxes(gt_boxes, torch.cat(pos_proposals), BOX_WEIGHTS)
        delta = deltas.unflatten(1, (self.num_classes, 4))[positive, label[positive]]
        loss_box_reg = F.smooth_l1_loss(
            delta, delta_targets, beta=config.smooth_l1_beta, reduction="sum"
        )
        losses = {
            # A batch without any proposal has no mean.
            "loss_cls": F.cross_entropy(scores, label, reduction="sum") / max(len(label), 1),
            "loss_box_reg": loss_box_reg / max(len(label), 1),
        }
        if self.mask_head is not None:
            logits = self.mask_head(roi_features).float()  # (positives, C, m, m)
            mask_targets, mask_labels = [], []
            for target, idxs, box in zip(targets, pos_matched_idxs, mask_proposals, strict=True):
                idxs = idxs[: len(box)]
                mask_targets.append(
                    crop_masks(
                        target["masks"], idxs, box, logits.shape[-1], config.soft_mask_targets
                    )
                )
                mask_labels.append(target["labels"][idxs])
            losses["loss_mask"] = mask_loss(logits, torch.cat(mask_labels), torch.cat(mask_targets))
        return losses


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

    Notebook 03, section 3.11.

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
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], first: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        roi_features = self.mask_features(features, boxes)  # once: res5 is most of the work
        by_image = roi_features.split([len(b) for b in boxes])
        of_first = torch.cat([x[:n] for x, n in zip(by_image, first, strict=True)])
        return roi_features.mean(dim=(2, 3)), of_first

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
