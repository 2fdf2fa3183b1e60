"""Panoptic FPN on one page: a Mask R-CNN and a semantic branch on one feature pyramid.

A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019. One network instead of two; its
two outputs are merged by :func:`labkit.models.panoptic_fpn.merge.merge`.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` outputs of the semantic branch,
``n`` detections of an image, ``m`` resolution of a mask, ``H' × W'`` an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.layers import resize_bilinear
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.panoptic_fpn.semantic_head import SemanticFPN, SemanticFPNConfig
from labkit.models.preprocess import Batch, Preprocessing, preprocess
from labkit.models.rcnn.mask_head import paste_detections
from labkit.models.rcnn.roi_heads import RoIHeadsConfig, build_roi_heads
from labkit.models.rcnn.rpn import RPN, RPNConfig
from labkit.models.semantic.losses import cross_entropy, semantic_targets
from labkit.models.targets import check_targets
from labkit.structures import IGNORE, Categories, Detections, Prediction, Target


@dataclass(frozen=True)
class PanopticFPNConfig:
    """Panoptic FPN configuration.

    Attributes:
        preprocessing: of the images.
        backbone: residual network, with or without pyramid.
        rpn: of the proposals.
        roi_heads: of the detections.
        semantic_head: of the semantic branch.
        instance_loss_weight: λ_i, of the losses of class, box and mask.
        semantic_loss_weight: λ_s, of the loss of the semantic branch.
        score_thresh, overlap_thresh, min_stuff_area: of the merge.
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    rpn: RPNConfig
    roi_heads: RoIHeadsConfig
    semantic_head: SemanticFPNConfig
    instance_loss_weight: float = 1.0
    semantic_loss_weight: float = 0.5
    score_thresh: float = 0.5
    overlap_thresh: float = 0.5
    min_stuff_area: int = 4096

    def build(self, categories: Categories) -> PanopticFPN:
        """A model with fresh weights."""
        return PanopticFPN(self, categories)


@dataclass(frozen=True)
class PanopticFPNOutput:
    """Raw output of a Panoptic FPN.

    Attributes:
        detections: for each image, boxes in pixels of the network's input, without masks.
        mask_logits: ``(n, m, m)`` of the detections' classes for each image.
        sem_seg_logits: ``(B, C, H/4, W/4)``.
    """

    detections: list[Detections]
    mask_logits: list[Tensor]
    sem_seg_logits: Tensor


class PanopticFPN(nn.Module):
    """Panoptic FPN: objects, a class for every pixel, and the panoptic map merged from both.

    A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019. Notebook 04, section 4.4.

    Args:
        config: the configuration.
        categories: things and stuff.

    Raises:
        LabkitError: there are no things.
    """

    def __init__(self, config: PanopticFPNConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = config.backbone.build()
        strides = self.backbone.strides
        channels = self.backbone.channels[config.rpn.levels[0]]
        self.rpn = RPN(channels, strides, config.rpn)
        self.roi_heads = build_roi_heads(
            config.backbone, channels, strides, categories, config.roi_heads
        )
        label_of, output_of = semantic_outputs(categories, config.semantic_head.merge_things)
        self.label_of: Tensor
        self.output_of: Tensor
        self.register_buffer("label_of", label_of, persistent=False)
        self.register_buffer("output_of", output_of, persistent=False)
        level = config.semantic_head.levels[0]
        self.sem_seg_head = SemanticFPN(
            self.backbone.channels[level], strides, len(label_of), config.semantic_head
        )

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
        """Those of Mask R-CNN and ``loss_sem_seg``; their sum is the joint loss (section 3.2).

        ``loss_sem_seg`` is the mean over the labelled pixels of all images, at full size.
        """
        targets = check_targets(targets, len(self.categories.things))
        gt_labels = semantic_targets(targets, len(self.categories), batch.padded_size)
        proposals, losses = self.rpn(features, batch, targets)
        for name, loss in self.roi_heads.losses(features, proposals, targets).items():
            losses[name] = loss * self.config.instance_loss_weight
        logits = self.sem_seg_head(features).float()  # (B, C, H/4, W/4)
        logits = resize_bilinear(logits, batch.padded_size)  # (B, C, H, W)
        loss = cross_entropy(logits, self.output_of[gt_labels]) * self.config.semantic_loss_weight
        return {**losses, "loss_sem_seg": loss}

    def predict(self, features: dict[str, Tensor], batch: Batch) -> PanopticFPNOutput:
        """Outputs of both branches from feature maps ``(B, D, h, w)`` by level name."""
        proposals, _ = self.rpn(features, batch)
        detections, mask_logits = self.roi_heads(features, proposals, batch.input_sizes)
        return PanopticFPNOutput(detections, mask_logits, self.sem_seg_head(features).float())

    def postprocess(
        self, output: PanopticFPNOutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Detections, semantic maps and merged panoptic maps, in pixels of the original images.

        If the semantic branch has one "other" class for all things (``merge_things``), ``semantic``
        has an object's class where the panoptic map has one, and IGNORE on other pixels of "other".

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: objects below it do not enter the merge; None: the configuration's.
        """
        config = self.config
        predictions = []
        for i, size in enumerate(batch.image_sizes):
            height, width = batch.input_sizes[i]
            detections = paste_detections(
                output.detections[i], output.mask_logits[i], (height, width), size
            )
            logits = resize_bilinear(output.sem_seg_logits[i : i + 1], batch.padded_size)
            # Cropped before it is resized: padding has no place in the image.
            logits = resize_bilinear(logits[:, :, :height, :width], size)  # (1, C, H', W')
            semantic = self.label_of[logits[0].argmax(dim=0)]  # (H', W')
            panoptic = merge(
                detections,
                semantic,
                self.categories,
                score_thresh=config.score_thresh if score_thresh is None else score_thresh,
                overlap_thresh=config.overlap_thresh,
                min_stuff_area=config.min_stuff_area,
            )
            semantic = torch.where(semantic == IGNORE, panoptic.semantic(), semantic)
            predictions.append(Prediction(detections, semantic, panoptic))
        return predictions


def semantic_outputs(categories: Categories, merge_things: bool) -> tuple[Tensor, Tensor]:
    """Tables between the outputs of the semantic branch and labels.

    Args:
        categories: things and stuff.
        merge_things: output 0 is the paper's "other" class, all things together.

    Returns:
        ``(C,)`` the label of each output, IGNORE for "other"; and ``(256,)`` the output of each
        label, IGNORE for IGNORE.
    """
    label_of = torch.arange(len(categories))
    output_of = torch.full((IGNORE + 1,), IGNORE)
    if merge_things:
        label_of = torch.tensor([IGNORE, *categories.stuff])
        output_of[: len(categories.things)] = 0
    output_of[label_of] = torch.arange(len(label_of))
    output_of[IGNORE] = IGNORE  # output 0, "other", has this label too
    return label_of, output_of
