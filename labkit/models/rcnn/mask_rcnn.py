"""Mask R-CNN on one page: backbone, proposals, heads, masks.

K. He et al., "Mask R-CNN", ICCV 2017. Without masks it is Faster R-CNN. One image's way from pixels
to masks: ``preprocess.py``, ``backbones/resnet.py``, ``backbones/fpn.py``, ``rpn.py``,
``roi_heads.py`` and ``mask_head.py``.

Letters in shapes: ``B`` images, ``n`` detections of an image, ``m`` resolution of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.preprocess import Batch, Preprocessing, preprocess
from labkit.models.rcnn.mask_head import paste_detections
from labkit.models.rcnn.roi_heads import RoIHeadsConfig, build_roi_heads
from labkit.models.rcnn.rpn import RPN, RPNConfig
from labkit.models.targets import check_targets
from labkit.structures import Categories, Detections, Prediction, Target


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Mask R-CNN configuration.

    Attributes:
        preprocessing: size, order of channels and normalisation of the images.
        backbone: residual network, with or without pyramid.
        rpn: configuration of the region proposal network.
        roi_heads: configuration of the box and mask heads.
        masks: False leaves the mask head out: Faster R-CNN.
        paste_by_resizing: True: the padded mask is resized to the whole-pixel box (torchvision);
            False: the mask is sampled at pixel centres.
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    rpn: RPNConfig
    roi_heads: RoIHeadsConfig
    masks: bool = True
    paste_by_resizing: bool = False

    def build(self, categories: Categories) -> MaskRCNN:
        """A model with fresh weights."""
        return MaskRCNN(self, categories)


@dataclass(frozen=True)
class MaskRCNNOutput:
    """Raw output of a Mask R-CNN.

    Attributes:
        detections: for each image, boxes in pixels of the network's input, without masks.
        mask_logits: ``(n, m, m)`` of the detections' classes for each image, or None.
    """

    detections: list[Detections]
    mask_logits: list[Tensor] | None


class MaskRCNN(nn.Module):
    """Mask R-CNN: boxes, scores, classes and masks of objects.

    K. He et al., "Mask R-CNN", ICCV 2017. Notebook 03, section 3.5.

    Args:
        config: the configuration.
        categories: the things among them are the classes.

    Raises:
        LabkitError: there are no things.
    """

    def __init__(self, config: MaskRCNNConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self.backbone = config.backbone.build()
        channels, strides = self.backbone.channels[config.rpn.levels[0]], self.backbone.strides
        self.rpn = RPN(channels, strides, config.rpn)
        self.roi_heads = build_roi_heads(
            config.backbone, channels, strides, categories, config.roi_heads, config.masks
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, height, width)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels`` and ``masks``; in training mode only.

        Returns:
            Training: :meth:`losses`. Evaluation: B predictions with ``detections`` in pixels of the
            images.

        Raises:
            LabkitError: an image of another type, or targets with boxes without area or labels
                that are not the categories'.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls``, ``loss_box_reg`` and ``loss_mask``."""
        targets = check_targets(targets, len(self.categories.things))
        proposals, losses = self.rpn(features, batch, targets)
        return {**losses, **self.roi_heads.losses(features, proposals, targets)}

    def predict(self, features: dict[str, Tensor], batch: Batch) -> MaskRCNNOutput:
        """Detections and mask logits from feature maps ``(B, D, h, w)`` by level name."""
        proposals, _ = self.rpn(features, batch)
        return MaskRCNNOutput(*self.roi_heads(features, proposals, batch.input_sizes))

    def postprocess(
        self, output: MaskRCNNOutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Detections with masks, in pixels of the original images.

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: detections below it are dropped; None: all stay. Those below the
                configuration's ``roi_heads.score_thresh`` are not in ``output``.
        """
        predictions = []
        for i, detections in enumerate(output.detections):
            keep = detections.scores >= (score_thresh or 0.0)
            mask_logits = None if output.mask_logits is None else output.mask_logits[i][keep]
            detections = paste_detections(
                detections[keep],
                mask_logits,
                batch.input_sizes[i],
                batch.image_sizes[i],
                self.config.paste_by_resizing,
            )
            predictions.append(Prediction(detections))
        return predictions
