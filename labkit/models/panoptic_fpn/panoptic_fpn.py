"""Panoptic FPN on one page: a Mask R-CNN with a semantic branch on the same pyramid.

A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019. One network instead of two; its
two answers are merged by :func:`labkit.models.panoptic_fpn.merge.merge`.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` categories, ``T`` of them things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.models.panoptic_fpn.merge import merge
from labkit.models.panoptic_fpn.semantic_head import SemanticFPN, SemanticFPNConfig
from labkit.models.rcnn.mask_rcnn import MaskRCNN
from labkit.models.rcnn.mask_rcnn_config import MaskRCNNConfig
from labkit.models.semantic.losses import cross_entropy, semantic_truth
from labkit.models.semantic.semantic_model import upsample
from labkit.structures import IGNORE, Categories, Prediction, Target


@dataclass(frozen=True, kw_only=True)
class PanopticFPNConfig(MaskRCNNConfig):
    """A Mask R-CNN's numbers and these.

    Attributes:
        semantic: of the semantic branch.
        instance_weight: λ_i, of the losses of class, box and mask.
        semantic_weight: λ_s, of the loss of the semantic branch.
        score, overlap, stuff_area: of :func:`labkit.models.panoptic_fpn.merge.merge`.
    """

    semantic: SemanticFPNConfig
    instance_weight: float = 1.0
    semantic_weight: float = 0.5
    score: float = 0.5
    overlap: float = 0.5
    stuff_area: int = 4096

    def build(self, categories: Categories) -> PanopticFPN:
        """A model with fresh weights."""
        return PanopticFPN(self, categories)

    @property
    def divisor(self) -> int:
        """All maps must reach the common stride by doubling."""
        return 32 if self.backbone.kind == "fpn" else 16


class PanopticFPN(MaskRCNN):
    """Objects, a class for every pixel, and the panoptic map made of both.

    Args:
        config: every number, and the parts.
        categories: things and stuff.
    """

    config: PanopticFPNConfig

    def __init__(self, config: PanopticFPNConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        # label_of[k]: what output k stands for, IGNORE for all things together; output_of[label].
        label_of = torch.arange(len(categories))
        output_of = torch.full((IGNORE + 1,), IGNORE)
        if config.semantic.things_as_one:
            label_of = torch.tensor([IGNORE, *categories.stuff])
            output_of[: len(categories.things)] = 0
        output_of[label_of] = torch.arange(len(label_of))
        output_of[IGNORE] = IGNORE
        self.label_of: Tensor
        self.output_of: Tensor
        self.register_buffer("label_of", label_of, persistent=False)
        self.register_buffer("output_of", output_of, persistent=False)
        self.sem_seg_head = SemanticFPN(
            self.backbone.channels[config.semantic.levels[0]],
            self.backbone.strides,
            len(label_of),
            config.semantic,
        )

    def losses(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Those of Mask R-CNN, and ``loss_sem_seg``; the sum of all is the joint loss (3.2).

        ``loss_sem_seg`` is the mean over the labelled pixels of all images, at full size.
        """
        truth = self.output_of[semantic_truth(targets, len(self.categories), padded)]
        losses = super().losses(features, padded, sizes, targets)
        for name in ("loss_cls", "loss_box_reg", "loss_mask"):
            losses[name] = losses[name] * self.config.instance_weight
        logits = upsample(self.sem_seg_head(features).float(), padded)  # (B, outputs, H, W)
        loss = cross_entropy(logits, truth) * self.config.semantic_weight
        return {**losses, "loss_sem_seg": loss}

    def predictions(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        inner: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Prediction]:
        """Those of Mask R-CNN with ``semantic`` and ``panoptic``.

        Where all things are one output, ``semantic`` has an object's class where the panoptic map
        has one, and IGNORE on other pixels of things: the branch does not know which thing it is.
        """
        found = super().predictions(features, padded, inner, sizes)
        logits = upsample(self.sem_seg_head(features).float(), padded)  # (B, outputs, H, W)
        for prediction, scores, (height, width), size in zip(
            found, logits, inner, sizes, strict=True
        ):
            # Cropped before it is resized: padding has no place in the picture.
            scores = upsample(scores[None, :, :height, :width], size)[0]
            semantic = self.label_of[scores.argmax(dim=0)]  # (H', W') of the output
            assert prediction.detections is not None
            prediction.panoptic = merge(
                prediction.detections,
                semantic,
                self.categories,
                score=self.config.score,
                overlap=self.config.overlap,
                stuff_area=self.config.stuff_area,
            )
            known = prediction.panoptic.semantic()
            prediction.semantic = torch.where(semantic == IGNORE, known, semantic)
        return found
