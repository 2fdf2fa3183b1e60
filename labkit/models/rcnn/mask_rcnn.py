"""Mask R-CNN on one page: backbone, proposals, heads, masks (K. He et al., ICCV 2017).

Without masks it is Faster R-CNN. One image's way from pixels to masks: this file,
``backbones/resnet.py``, ``backbones/fpn.py``, ``rpn.py``, ``roi_heads.py`` and
``paste_masks.py``.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``D`` channels, ``n`` detections,
``m`` side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.models.detector import Detector, size_of
from labkit.models.rcnn.mask_rcnn_config import MaskRCNNConfig
from labkit.models.rcnn.paste_masks import paste_masks, paste_masks_resized
from labkit.models.rcnn.roi_heads import Found
from labkit.models.rcnn.rpn import RPN
from labkit.ops.boxes import clip_boxes, larger_than
from labkit.structures import Categories, Detections, Prediction, Target


class MaskRCNN(Detector):
    """Objects with boxes, scores, classes and masks.

    Args:
        config: every number, and the parts.
        categories: the things among them are the classes.

    Raises:
        LabkitError: there are no things.
    """

    config: MaskRCNNConfig

    def __init__(self, config: MaskRCNNConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        classes = len(categories.things)
        if classes == 0:
            raise LabkitError(
                "categories: none of them is a thing, so there is nothing to detect; for stuff"
                " alone choose a semantic model, such as deeplab_tiny"
            )
        self.backbone = config.backbone.build()
        channels = self.backbone.channels[config.rpn.levels[0]]
        strides = self.backbone.strides
        self.rpn = RPN(channels, strides, config.rpn)
        self.roi_heads = config.heads(channels, strides, classes)

    def training_losses(
        self, images: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls``, ``loss_box_reg`` and ``loss_mask``."""
        features, padded = self.features(images)
        return self.losses(features, padded, [size_of(image) for image in images], targets)

    def losses(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """All losses by name, from the maps of a batch of ``padded`` pixels."""
        proposals, _, losses = self.rpn(features, padded, sizes, targets)
        _, _, of_heads = self.roi_heads(features, proposals, sizes, targets)
        return {**losses, **of_heads}

    def infer(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """B predictions with ``detections``; see :meth:`labkit.models.detector.Detector.infer`."""
        features, padded = self.features(images)
        inner = [size_of(image) for image in images]
        return self.predictions(features, padded, inner, sizes)

    def predictions(
        self,
        features: dict[str, Tensor],
        padded: tuple[int, int],
        inner: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Prediction]:
        """Predictions at ``sizes`` from the maps of images of ``inner`` (height, width)."""
        proposals, _, _ = self.rpn(features, padded, inner)
        found, masks, _ = self.roi_heads(features, proposals, inner)
        return [
            Prediction(detections=self.detections(one, None if masks is None else masks[i], a, b))
            for i, (one, a, b) in enumerate(zip(found, inner, sizes, strict=True))
        ]

    def features(self, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Feature maps ``(B, D, h, w)`` by level, and (H, W) of the padded batch."""
        x = self.batch(images, self.config.divisor)
        if self.training:
            # All maps inherit this layout, and convolutions and RoIAlign are quickest in it. In
            # evaluation it is the Predictor's choice: sums in another order round differently.
            x = x.contiguous(memory_format=torch.channels_last)
        maps: dict[str, Tensor] = self.backbone(x)
        return maps, (x.shape[2], x.shape[3])

    def detections(
        self, found: Found, masks: Tensor | None, inner: tuple[int, int], size: tuple[int, int]
    ) -> Detections:
        """Boxes scaled from the network's image to the output, and masks ``(n, m, m)`` pasted."""
        scale = torch.tensor([size[1] / inner[1], size[0] / inner[0]] * 2)
        boxes = clip_boxes(found.boxes * scale.to(found.boxes), size)
        keep = larger_than(boxes, 0.0)
        boxes = boxes[keep]
        pasted = None
        if masks is not None:
            paste = paste_masks_resized if self.config.conventions.paste_resized else paste_masks
            pasted = paste(masks[keep], boxes, size)
        return Detections(boxes, found.scores[keep], found.labels[keep], pasted)
