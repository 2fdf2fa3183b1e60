"""Region proposal network: class-agnostic boxes that may hold an object.

S. Ren et al., "Faster R-CNN", NIPS 2015, section 3.1; several levels as in T.-Y. Lin et al., FPN.

Letters in shapes: ``B`` images, ``A`` anchors per cell, ``h × w`` cells of a level, ``n = h w A``
anchors of a level, ``N`` anchors of all levels, ``K`` proposals of an image, ``M`` objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from labkit.models.preprocess import Batch
from labkit.models.rcnn.anchors import cell_anchors, legacy_cell_anchors, pyramid_anchors
from labkit.models.rcnn.matcher import POSITIVE, match_boxes, sample_boxes
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes, larger_than
from labkit.structures import Target

BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BG_IOU_THRESH, FG_IOU_THRESH = 0.3, 0.7
POSITIVE_FRACTION = 0.5


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network configuration.

    Attributes:
        levels: feature maps, finest first.
        anchor_sizes: in pixels, for each level.
        aspect_ratios: anchor heights / widths.
        round_anchors: anchors in whole pixels.
        legacy_anchors: :func:`labkit.models.rcnn.anchors.legacy_cell_anchors` instead; one size per
            level.
        plus_one: boxes go from pixel to pixel (:mod:`labkit.ops.boxes`).
        rank_by_probability: candidates are ranked by probability, where rounding makes ties among
            the most certain, instead of by logit.
        pre_nms_top_n: candidates per level, in training and in evaluation.
        post_nms_top_n: proposals per image, all levels together, in training and in evaluation.
        nms_thresh: IoU above which of two proposals of a level the lower-scored one is removed.
        min_size: proposals must be longer than this on both sides.
        batch_size_per_image: anchors sampled for the loss.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is L1.
        average_over_sampled: losses are divided by the anchors that were there to sample
            (torchvision).
        strides_from_grid: anchors ``image size // cells`` apart (torchvision) instead of the
            level's stride; they differ where a level's cells overhang the image.
    """

    levels: tuple[str, ...]
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    round_anchors: bool = False
    legacy_anchors: bool = False
    plus_one: bool = False
    rank_by_probability: bool = False
    pre_nms_top_n: tuple[int, int] = (2000, 1000)
    post_nms_top_n: tuple[int, int] = (1000, 1000)
    nms_thresh: float = 0.7
    min_size: float = 0.0
    batch_size_per_image: int = 256
    smooth_l1_beta: float = 0.0
    average_over_sampled: bool = False
    strides_from_grid: bool = False


class RPN(nn.Module):
    """A 3 × 3 convolution and two 1 × 1 layers, slid over every level (section 3.1).

    Notebook 03, section 3.7.

    Args:
        channels: of the feature maps.
        strides: pixels per cell, by level name.
        config: the configuration.
    """

    def __init__(self, channels: int, strides: dict[str, int], config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        num_anchors = len(config.anchor_sizes[0]) * len(config.aspect_ratios)
        for name, sizes in zip(config.levels, config.anchor_sizes, strict=True):
            if config.legacy_anchors:
                cell = legacy_cell_anchors(sizes[0], config.aspect_ratios, strides[name])
            else:
                cell = cell_anchors(sizes, config.aspect_ratios, config.round_anchors)
            self.register_buffer(f"{name}_anchors", cell, persistent=False)  # (A, 4)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: ``(B, D, h, w)`` by level name.
            batch: for its sizes.
            targets: with them, losses are computed as well.

        Returns:
            Proposals ``(K, 4)`` for each image, best first, in pixels of the network's input; and
            ``loss_rpn_cls`` and ``loss_rpn_loc``, or an empty dict.
        """
        objectness, deltas = self.predict(features)  # (B, n) and (B, n, 4) by level
        anchors = self.anchors(features, batch)  # (n, 4) by level
        losses = {}
        if targets is not None:
            losses = self.losses(
                torch.cat(anchors), torch.cat(objectness, dim=1), torch.cat(deltas, dim=1), targets
            )
        proposals, _ = self.propose(anchors, objectness, deltas, batch)
        return proposals, losses

    def predict(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits ``(B, n)`` and box deltas ``(B, n, 4)`` of each level's anchors."""
        objectness_logits, bbox_deltas = [], []
        for name in self.config.levels:
            x = F.relu(self.conv(features[name]), inplace=True)
            # (B, A, h, w) -> (B, n): the anchors of a cell stay together.
            logits = self.objectness(x).float().permute(0, 2, 3, 1)  # (B, h, w, A)
            deltas = self.deltas(x).float().permute(0, 2, 3, 1)  # (B, h, w, 4 A)
            objectness_logits.append(logits.flatten(1))  # (B, n)
            bbox_deltas.append(deltas.reshape(len(x), -1, 4))  # (B, n, 4)
        return objectness_logits, bbox_deltas

    def anchors(self, features: dict[str, Tensor], batch: Batch) -> list[Tensor]:
        """The anchors ``(n, 4)`` of each level."""
        levels = self.config.levels
        shapes = [(features[name].shape[2], features[name].shape[3]) for name in levels]
        strides = [(self.strides[name], self.strides[name]) for name in levels]
        if self.config.strides_from_grid:
            height, width = batch.padded_size
            strides = [(height // rows, width // columns) for rows, columns in shapes]
        return pyramid_anchors(
            [self.get_buffer(f"{name}_anchors") for name in levels], shapes, strides
        )

    @torch.no_grad()
    def propose(
        self,
        anchors: Sequence[Tensor],
        objectness: Sequence[Tensor],
        deltas: Sequence[Tensor],
        batch: Batch,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decode, clip, and suppress: proposals ``(K, 4)`` and their scores for each image.

        Args:
            anchors: ``(n, 4)`` by level.
            objectness: logits ``(B, n)`` by level.
            deltas: ``(B, n, 4)`` by level.
            batch: for its sizes.
        """
        config = self.config
        mode = 0 if self.training else 1  # of pre_nms_top_n and post_nms_top_n
        top_anchors, top_deltas, top_scores, top_levels = [], [], [], []
        for level, (level_anchors, level_logits, level_deltas) in enumerate(
            zip(anchors, objectness, deltas, strict=True)
        ):
            count = min(level_logits.shape[1], config.pre_nms_top_n[mode])
            ranked = level_logits.sigmoid() if config.rank_by_probability else level_logits
            scores, top_idxs = ranked.topk(count, dim=1)  # (B, count)
            top_anchors.append(level_anchors[top_idxs])  # (B, count, 4)
            top_deltas.append(level_deltas.gather(1, top_idxs[:, :, None].expand(-1, -1, 4)))
            top_scores.append(scores)
            top_levels.append(torch.full((count,), level, device=scores.device))
        candidate_anchors = torch.cat(top_anchors, dim=1)  # (B, candidates, 4)
        candidate_deltas = torch.cat(top_deltas, dim=1)
        candidate_levels = torch.cat(top_levels)  # (candidates,)
        candidates = decode_boxes(
            candidate_deltas.flatten(0, 1), candidate_anchors.flatten(0, 1), BOX_WEIGHTS
        ).view_as(candidate_anchors)
        proposals, proposal_scores = [], []
        for boxes, scores, size in zip(
            candidates, torch.cat(top_scores, dim=1), batch.input_sizes, strict=True
        ):
            boxes = clip_boxes(boxes, size, config.plus_one)
            valid = boxes.isfinite().all(dim=1) & scores.isfinite()
            valid &= larger_than(boxes, config.min_size)
            boxes, scores, levels = boxes[valid], scores[valid], candidate_levels[valid]
            keep = batched_nms(boxes, scores, levels, config.nms_thresh)
            keep = keep[: config.post_nms_top_n[mode]]
            proposals.append(boxes[keep])
            proposal_scores.append(scores[keep])
        return proposals, proposal_scores

    def losses(
        self, anchors: Tensor, objectness: Tensor, deltas: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross-entropy of the objectness and smooth L1 of the boxes, over the sampled anchors.

        Both are divided by the anchors that *should* be sampled, so that an image with few
        positives does not weight its boxes more. (``average_over_sampled``: by those that are.)

        Args:
            anchors: ``(N, 4)``.
            objectness: logits ``(B, N)``.
            deltas: ``(B, N, 4)``.
            targets: B targets with ``boxes`` ``(M, 4)``.
        """
        config = self.config
        loss_cls = loss_loc = objectness.new_zeros(())
        count = 0
        for image_logits, image_deltas, target in zip(objectness, deltas, targets, strict=True):
            gt_boxes = target["boxes"]
            iou = box_iou(gt_boxes, anchors)
            matched_idxs, match_labels = match_boxes(
                iou, BG_IOU_THRESH, FG_IOU_THRESH, allow_low_quality=True
            )
            positive, negative = sample_boxes(
                match_labels, config.batch_size_per_image, POSITIVE_FRACTION
            )
            sampled = torch.cat([positive, negative])
            count += len(sampled) if config.average_over_sampled else config.batch_size_per_image
            is_object = (match_labels[sampled] == POSITIVE).to(image_logits.dtype)
            loss_cls = loss_cls + F.binary_cross_entropy_with_logits(
                image_logits[sampled], is_object, reduction="sum"
            )
            delta_targets = encode_boxes(
                gt_boxes[matched_idxs[positive]], anchors[positive], BOX_WEIGHTS
            )
            loss_loc = loss_loc + F.smooth_l1_loss(
                image_deltas[positive], delta_targets, beta=config.smooth_l1_beta, reduction="sum"
            )
        count = max(count, 1)  # no anchors, no mean
        return {"loss_rpn_cls": loss_cls / count, "loss_rpn_loc": loss_loc / count}
