"""Region proposal network: where something is, whatever it is.

S. Ren et al., "Faster R-CNN", NIPS 2015, section 3.1; several levels as in T.-Y. Lin et al., FPN.

Letters in shapes: ``B`` images, ``A`` anchors at a cell, ``h × w`` cells of a level, ``n = h w A``
anchors of a level, ``N`` anchors of all levels, ``K`` proposals of an image, ``M`` objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from labkit.models.rcnn.anchors import cell_anchors, grid_anchors, legacy_cell_anchors
from labkit.models.rcnn.matcher import POSITIVE, match, sample
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes, larger_than
from labkit.structures import Target

WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class RPNConfig:
    """Numbers of the network.

    Attributes:
        levels: feature maps, finest first.
        sizes: anchor sizes in pixels, for each level.
        ratios: anchor heights / widths.
        rounded: anchors in whole pixels.
        legacy_anchors: :func:`labkit.models.rcnn.anchors.legacy_cell_anchors` instead; one size a
        level. plus_one: boxes go from pixel to pixel (:mod:`labkit.ops.boxes`).
        by_probability: candidates are ranked by probability, where rounding makes ties among those
            that are all but certain, instead of by logit.
        before_nms: candidates a level, in training and in evaluation.
        after_nms: proposals an image, all levels together, in training and in evaluation.
        nms: IoU above which of two proposals of a level the lower-scored one goes.
        min_side: proposals must be longer than this on both sides.
        batch: anchors drawn for the loss, an image.
        beta: where the box loss turns from quadratic to linear; 0 is L1.
        mean_of_drawn: losses are divided by the anchors that were there to draw (torchvision).
        strides_from_grid: anchors ``image size // cells`` apart (torchvision) instead of the
            level's stride; they differ where a level's cells overhang the image.
    """

    levels: tuple[str, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False
    legacy_anchors: bool = False
    plus_one: bool = False
    by_probability: bool = False
    before_nms: tuple[int, int] = (2000, 1000)
    after_nms: tuple[int, int] = (1000, 1000)
    nms: float = 0.7
    min_side: float = 0.0
    batch: int = 256
    beta: float = 0.0
    mean_of_drawn: bool = False
    strides_from_grid: bool = False


class RPN(nn.Module):
    """One small network slid over every level.

    Args:
        channels: of the feature maps.
        strides: pixels per cell, by level name.
        config: the numbers.
    """

    def __init__(self, channels: int, strides: dict[str, int], config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        anchors = len(config.sizes[0]) * len(config.ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: ``(B, D, h, w)`` by level name.
            padded: (height, width) of the batch.
            sizes: (height, width) of each image without padding.
            targets: in training.

        Returns:
            Proposals ``(K, 4)`` and their scores ``(K,)``, best first, for each image; losses.
        """
        scores, deltas, anchors = [], [], []
        for name, level_sizes in zip(self.config.levels, self.config.sizes, strict=True):
            x = features[name]
            hidden = F.relu(self.conv(x), inplace=True)
            # (B, A, h, w) -> (B, n): the anchors of a cell stay together.
            scores.append(self.objectness(hidden).float().permute(0, 2, 3, 1).flatten(1))
            offsets = self.deltas(hidden).float().permute(0, 2, 3, 1)  # (B, h, w, 4 A)
            deltas.append(offsets.reshape(len(x), -1, 4))  # (B, n, 4)
            cell = self._cell(name, level_sizes).to(x.device)
            height, width = x.shape[2:]
            step = (self.strides[name], self.strides[name])
            if self.config.strides_from_grid:
                step = (padded[0] // height, padded[1] // width)
            anchors.append(grid_anchors(cell, height, width, step))
        losses = {}
        if self.training:
            assert targets is not None
            losses = self.losses(
                torch.cat(anchors), torch.cat(scores, dim=1), torch.cat(deltas, dim=1), targets
            )
        boxes, best = self.propose(anchors, scores, deltas, sizes)
        return boxes, best, losses

    def _cell(self, level: str, sizes: tuple[float, ...]) -> Tensor:
        """The anchors of a level's first cell, ``(A, 4)``."""
        config = self.config
        if config.legacy_anchors:
            (size,) = sizes
            return legacy_cell_anchors(size, config.ratios, self.strides[level])
        return cell_anchors(sizes, config.ratios, config.rounded)

    @torch.no_grad()
    def propose(
        self,
        anchors: Sequence[Tensor],
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best boxes of every image; by level anchors ``(n, 4)``, scores ``(B, n)``, deltas."""
        moment = 0 if self.training else 1
        candidates, values, levels = [], [], []
        for level, (of_level, score, delta) in enumerate(zip(anchors, scores, deltas, strict=True)):
            count = min(score.shape[1], self.config.before_nms[moment])
            ranked = score.sigmoid() if self.config.by_probability else score
            value, index = ranked.topk(count, dim=1)  # (B, count)
            offsets = delta.gather(1, index[:, :, None].expand(-1, -1, 4))
            boxes = decode_boxes(offsets.reshape(-1, 4), of_level[index.flatten()], WEIGHTS)
            candidates.append(boxes.reshape(len(score), count, 4))
            values.append(value)
            levels.append(torch.full((count,), level, device=score.device))
        group = torch.cat(levels)
        proposals, kept_scores = [], []
        for boxes, value, size in zip(
            torch.cat(candidates, dim=1), torch.cat(values, dim=1), sizes, strict=True
        ):
            boxes = clip_boxes(boxes, size, self.config.plus_one)
            usable = boxes.isfinite().all(dim=1) & value.isfinite()
            usable &= larger_than(boxes, self.config.min_side)
            boxes, value, of_box = boxes[usable], value[usable], group[usable]
            keep = batched_nms(boxes, value, of_box, self.config.nms)
            keep = keep[: self.config.after_nms[moment]]
            proposals.append(boxes[keep])
            kept_scores.append(value[keep])
        return proposals, kept_scores

    def losses(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross-entropy of object or not, and distance of the boxes, over the anchors drawn.

        Both are divided by the anchors that *should* be drawn, so that an image with few positives
        does not count its boxes more. (``mean_of_drawn``: by those that are drawn.)

        Args:
            anchors: ``(N, 4)``.
            scores: ``(B, N)`` logits.
            deltas: ``(B, N, 4)``.
            targets: B targets with ``boxes`` ``(M, 4)``.
        """
        classification = localisation = scores.new_zeros(())
        count = 0
        for score, delta, target in zip(scores, deltas, targets, strict=True):
            objects, kinds = match(box_iou(target["boxes"], anchors), 0.3, 0.7, keep_best=True)
            positive, negative = sample(kinds, self.config.batch, 0.5)
            drawn = torch.cat([positive, negative])
            count += len(drawn) if self.config.mean_of_drawn else self.config.batch
            truth = (kinds[drawn] == POSITIVE).to(score.dtype)
            classification = classification + F.binary_cross_entropy_with_logits(
                score[drawn], truth, reduction="sum"
            )
            wanted = encode_boxes(target["boxes"][objects[positive]], anchors[positive], WEIGHTS)
            localisation = localisation + F.smooth_l1_loss(
                delta[positive], wanted, beta=self.config.beta, reduction="sum"
            )
        count = max(count, 1)  # no anchors, no mean
        return {"loss_rpn_cls": classification / count, "loss_rpn_loc": localisation / count}
