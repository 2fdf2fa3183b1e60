"""What the RoI heads are trained on: sampled proposals, and the loss of their classes and boxes.

R. Girshick, "Fast R-CNN", ICCV 2015, section 2.3. The loss of the masks is
:func:`labkit.models.rcnn.mask_head.mask_loss`.

Letters in shapes: ``k`` sampled proposals of an image, ``p`` positives among them; ``K`` and ``P``
of all images; ``C`` thing classes, background is class C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from labkit.models.rcnn.matcher import match_boxes, sample_boxes
from labkit.structures import Target

BG_IOU_THRESH = FG_IOU_THRESH = 0.5


@dataclass(frozen=True)
class TrainingSamples:
    """Sampled proposals of one image, the positives first.

    Attributes:
        boxes: ``(k, 4)``.
        labels: ``(k,)`` int64, C for background.
        matched_idxs: ``(p,)`` int64, the object that each positive is matched to.
        gt_boxes: ``(p, 4)``, the boxes of these objects.
    """

    boxes: Tensor
    labels: Tensor
    matched_idxs: Tensor
    gt_boxes: Tensor

    @property
    def pos_boxes(self) -> Tensor:
        return self.boxes[: len(self.matched_idxs)]


def select_training_samples(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    num_classes: int,
    batch_size_per_image: int,
    positive_fraction: float,
) -> list[TrainingSamples]:
    """Match the proposals of each image to its objects, and sample some of them.

    Notebook 03, section 3.4.

    Args:
        proposals: boxes of the RPN, for each image.
        targets: the objects of each image.
        num_classes: C.
        batch_size_per_image, positive_fraction: of
            :func:`~labkit.models.rcnn.matcher.sample_boxes`.
    """
    samples = []
    for image_proposals, target in zip(proposals, targets, strict=True):
        gt_boxes, gt_labels = target["boxes"], target["labels"]
        # Ground-truth boxes join in, so that there are positives before the RPN finds any.
        candidates = torch.cat([image_proposals.detach(), gt_boxes])
        matched_idxs, match_labels = match_boxes(
            box_iou(gt_boxes, candidates), BG_IOU_THRESH, FG_IOU_THRESH, allow_low_quality=False
        )
        positive, negative = sample_boxes(match_labels, batch_size_per_image, positive_fraction)
        pos_matched_idxs = matched_idxs[positive]
        background = torch.full_like(negative, num_classes)
        samples.append(
            TrainingSamples(
                boxes=candidates[torch.cat([positive, negative])],
                labels=torch.cat([gt_labels[pos_matched_idxs], background]),
                matched_idxs=pos_matched_idxs,
                gt_boxes=gt_boxes[pos_matched_idxs],
            )
        )
    return samples


def fastrcnn_loss(
    class_logits: Tensor,
    bbox_deltas: Tensor,
    labels: Tensor,
    delta_targets: Tensor,
    smooth_l1_beta: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of all sampled proposals, and smooth L1 of the positives' boxes.

    Notebook 03, section 3.5.

    Both are divided by *all* that were sampled: divided by the positives, an image with few of them
    would weight each one more.

    Args:
        class_logits: ``(K, C + 1)``.
        bbox_deltas: ``(K, 4 C)``, of each class.
        labels: ``(K,)``.
        delta_targets: ``(P, 4)`` of the positives, in their order.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is L1.
    """
    num_classes = class_logits.shape[1] - 1
    positive = (labels < num_classes).nonzero()[:, 0]
    deltas = bbox_deltas.unflatten(1, (num_classes, 4))[positive, labels[positive]]  # (P, 4)
    loss_cls = F.cross_entropy(class_logits, labels, reduction="sum")
    loss_box_reg = F.smooth_l1_loss(deltas, delta_targets, beta=smooth_l1_beta, reduction="sum")
    num_sampled = max(len(labels), 1)  # a batch without any proposal has no mean
    return loss_cls / num_sampled, loss_box_reg / num_sampled
