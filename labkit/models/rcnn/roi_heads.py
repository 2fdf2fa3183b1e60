"""The second stage: what each proposal is, a better box for it, and its mask.

R. Girshick, "Fast R-CNN", ICCV 2015; K. He et al., "Mask R-CNN", ICCV 2017. Two shapes of head:

- ``FPNHeads``: pool small windows from the pyramid level that fits a box's size (or from the one
  map of a dilated backbone, DC5), then fully connected layers, and convolutions for the mask.
- ``C4Heads``: pool from res4 and let res5, the backbone's last stage, be the head.

Letters in shapes: ``K`` proposals of all images, ``C`` thing classes, background is class C,
``D`` channels of the map, ``s`` side of the pooled window, ``m`` side of the mask.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from labkit.models.rcnn.mask_head import MaskHead, cut_masks, mask_loss, masks_of
from labkit.models.rcnn.matcher import match, sample
from labkit.models.rcnn.roi_config import RoIConfig
from labkit.models.rcnn.roi_pooler import pool
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes, larger_than
from labkit.structures import Target

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass
class Found:
    """Detections of one image before masks: ``boxes (n, 4)``, ``scores (n,)``, ``labels (n,)``."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class RoIHeads(nn.Module):
    """What both shapes of head share: drawing proposals, the losses, and the decisions.

    Args:
        inputs: channels that the classifier sees.
        strides: pixels per cell, by level name.
        classes: C.
        config: the numbers.
    """

    mask_head: MaskHead | None

    def __init__(
        self, inputs: int, strides: dict[str, int], classes: int, config: RoIConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        self.classes = classes
        self.cls_score = nn.Linear(inputs, classes + 1)
        self.bbox_pred = nn.Linear(inputs, 4 * classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    @abstractmethod
    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """What the classifier sees of each box, ``(K, inputs)``; boxes by image ``(k, 4)``."""

    @abstractmethod
    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """What the mask branch sees of each box, ``(K, D, s, s)``."""

    def both_features(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], first: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """For training, ``box_features`` of all boxes and ``mask_features`` of the first ones.

        Args:
            features: ``(B, D, h, w)`` by level name.
            boxes: ``(k, 4)`` for each image.
            first: of each image's boxes, how many have a mask.
        """
        x = self.box_features(features, boxes)
        if self.mask_head is None:
            return x, None
        return x, self.mask_features(features, [b[:n] for b, n in zip(boxes, first, strict=True)])

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Found], list[Tensor] | None, dict[str, Tensor]]:
        """Losses in training; in evaluation detections, and for each the probabilities of its mask.

        Args:
            features: ``(B, D, h, w)`` by level name.
            proposals: ``(k, 4)`` for each image.
            sizes: (height, width) of each image without padding.
            targets: in training.

        Returns:
            Detections and masks ``(n, m, m)`` for each image, and losses; what the mode does not
            make is empty, and masks are None for a model without them.
        """
        if self.training:
            assert targets is not None
            return [], None, self.losses(features, proposals, targets)
        found = self.detect(features, proposals, sizes)
        if self.mask_head is None:
            return found, None, {}
        logits = self.mask_head(self.mask_features(features, [f.boxes for f in found]))
        labels = torch.cat([f.labels for f in found])
        masks = masks_of(logits, labels).float().sigmoid()  # (K, m, m)
        return found, list(masks.split([len(f.boxes) for f in found])), {}

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Classification over all proposals drawn, boxes and masks over the positives.

        The box loss is divided by *all* that were drawn: divided by the positives, an image with
        few of them would count each one more.
        """
        boxes, labels = [], []  # of all that are drawn, by image
        cut, objects = [], []  # boxes of the positives, and which object each one is
        for of_image, target in zip(proposals, targets, strict=True):
            # The true boxes join in, so that there are positives before the RPN finds any.
            candidates = torch.cat([of_image.detach(), target["boxes"]])
            index, kinds = match(box_iou(target["boxes"], candidates), 0.5, 0.5, keep_best=False)
            positive, negative = sample(kinds, self.config.batch, self.config.positive_fraction)
            cut.append(candidates[positive])
            objects.append(index[positive])
            boxes.append(torch.cat([cut[-1], candidates[negative]]))
            background = torch.full_like(negative, self.classes)
            labels.append(torch.cat([target["labels"][objects[-1]], background]))
        cut_for_masks = [c[: self.config.mask_batch] for c in cut]
        x, windows = self.both_features(features, boxes, [len(c) for c in cut_for_masks])
        scores, deltas = self.cls_score(x).float(), self.bbox_pred(x).float()
        label = torch.cat(labels)
        positive = (label < self.classes).nonzero()[:, 0]
        truth = torch.cat([t["boxes"][o] for t, o in zip(targets, objects, strict=True)])
        wanted = encode_boxes(truth, torch.cat(cut), WEIGHTS)
        delta = deltas.unflatten(1, (self.classes, 4))[positive, label[positive]]
        box_loss = F.smooth_l1_loss(delta, wanted, beta=self.config.beta, reduction="sum")
        losses = {
            # A batch without any proposal has no mean.
            "loss_cls": F.cross_entropy(scores, label, reduction="sum") / max(len(label), 1),
            "loss_box_reg": box_loss / max(len(label), 1),
        }
        if self.mask_head is not None:
            logits = self.mask_head(windows).float()  # (positives, C, m, m)
            side, soft = logits.shape[-1], self.config.soft_masks
            mask_truth, mask_labels = [], []
            for target, index, box in zip(targets, objects, cut_for_masks, strict=True):
                index = index[: len(box)]
                mask_truth.append(cut_masks(target["masks"], index, box, side, soft))
                mask_labels.append(target["labels"][index])
            losses["loss_mask"] = mask_loss(logits, torch.cat(mask_labels), torch.cat(mask_truth))
        return losses

    def detect(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Found]:
        """Score the proposals, move their boxes, and keep the best of each class."""
        return [self.choose(*one) for one in self.scored(features, proposals, sizes)]

    def choose(self, scores: Tensor, boxes: Tensor) -> Found:
        """The best of each class of one image.

        Args:
            scores: ``(k, C)``.
            boxes: ``(k, C, 4)``.
        """
        config = self.config
        row, label = (scores > config.score).nonzero(as_tuple=True)
        value, chosen = scores[row, label], boxes[row, label]
        if config.min_side > 0:
            large = larger_than(chosen, config.min_side)
            value, chosen, label = value[large], chosen[large], label[large]
        keep = batched_nms(chosen, value, label, config.nms)[: config.detections]
        return Found(chosen[keep], value[keep], label[keep])

    def scored(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[tuple[Tensor, Tensor]]:
        """Each proposal's probability ``(k, C)`` and box ``(k, C, 4)`` of each class, by image."""
        x = self.box_features(features, proposals)
        scores = F.softmax(self.cls_score(x).float(), dim=1)[:, : self.classes]  # (K, C)
        boxes = decode_boxes(self.bbox_pred(x).float(), torch.cat(list(proposals)), WEIGHTS)
        counts = [len(p) for p in proposals]
        results = []
        for score, box, size in zip(scores.split(counts), boxes.split(counts), sizes, strict=True):
            finite = box.isfinite().all(dim=1) & score.isfinite().all(dim=1)
            score, box = score[finite], box[finite]
            box = box.unflatten(1, (self.classes, 4))
            results.append((score, clip_boxes(box, size, self.config.plus_one)))
        return results


class FPNHeads(RoIHeads):
    """Fully connected layers for class and box, convolutions for the mask."""

    def __init__(
        self, channels: int, strides: dict[str, int], classes: int, config: RoIConfig, masks: bool
    ) -> None:
        super().__init__(config.hidden, strides, classes, config)
        self.box_head = BoxHead(channels * config.box_size**2, config.hidden)
        self.mask_head = MaskHead(channels, config.mask_widths, classes) if masks else None

    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        window = pool(
            features, boxes, self.strides, self.config.box_size, self.config.pooler
        )  # (K, D, s, s)
        x: Tensor = self.box_head(window)
        return x

    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return pool(features, boxes, self.strides, self.config.mask_size, self.config.pooler)


class C4Heads(RoIHeads):
    """The backbone's last stage, run on every window, for class, box and mask alike.

    Args:
        res5: the stage, of stride 2.
        outputs: its channels.
    """

    def __init__(
        self,
        res5: nn.Module,
        outputs: int,
        strides: dict[str, int],
        classes: int,
        config: RoIConfig,
        masks: bool,
    ) -> None:
        super().__init__(outputs, strides, classes, config)
        self.res5 = res5
        self.mask_head = MaskHead(outputs, config.mask_widths, classes) if masks else None

    def box_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.mask_features(features, boxes).mean(dim=(2, 3))

    def both_features(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor], first: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        windows = self.mask_features(features, boxes)  # once: res5 is most of the work
        by_image = windows.split([len(b) for b in boxes])
        of_first = torch.cat([w[:n] for w, n in zip(by_image, first, strict=True)])
        return windows.mean(dim=(2, 3)), of_first

    def mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.res5(
            pool(features, boxes, self.strides, self.config.mask_size, self.config.pooler)
        )
        return x


class BoxHead(nn.Module):
    """Two fully connected layers."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(K, D, s, s)`` to ``(K, hidden)``."""
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
