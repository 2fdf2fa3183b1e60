"""Mask R-CNN on one page: backbone, proposals, heads, masks (K. He et al., ICCV 2017).

Without masks it is Faster R-CNN. One image's way from pixels to masks: this file,
``resnet_bottleneck.py``, ``fpn.py``, ``rpn.py``, ``roi_heads.py`` and ``pasting.py``.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``D`` channels, ``n`` detections,
``m`` side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.errors import LabkitError
from labkit.models.images import check_images, normalised
from labkit.models.mask_rcnn_config import MaskRCNNConfig
from labkit.models.pasting import paste_masks, paste_masks_resized
from labkit.models.roi_heads import Found
from labkit.models.rpn import RPN
from labkit.ops.boxes import clip_boxes, larger_than
from labkit.structures import Categories, Detections, Prediction, Target


class MaskRCNN(nn.Module):
    """Objects with boxes, scores, classes and masks.

    Args:
        config: every number, and the parts.
        categories: the things among them are the classes.

    Raises:
        LabkitError: there are no things.
    """

    def __init__(self, config: MaskRCNNConfig, categories: Categories) -> None:
        super().__init__()
        classes = len(categories.things)
        if classes == 0:
            raise LabkitError(
                "categories: none of them is a thing, so there is nothing to detect; for stuff"
                " alone choose a semantic model, such as deeplab_tiny"
            )
        self.config = config
        self.categories = categories
        self.backbone = config.backbone.build()
        channels = self.backbone.channels[config.rpn.levels[0]]
        strides = self.backbone.strides
        self.rpn = RPN(channels, strides, config.rpn)
        self.roi_heads = config.heads(channels, strides, classes)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, h, w)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels`` and ``masks``; in training mode only.

        Returns:
            Training: ``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls``, ``loss_box_reg`` and
            ``loss_mask``. Evaluation: B predictions with ``detections``.

        Raises:
            LabkitError: an image of another type, or targets with boxes without area or labels
                that are not the categories'.
        """
        check_images(images)
        sizes = [_size(image) for image in images]
        if not self.training:
            return self.infer(images, sizes)
        if targets is None:
            raise ValueError("targets are needed in training mode; call model.eval() first?")
        check_targets(targets, len(self.categories.things))
        features, padded = self.features(images)
        return self.losses(features, padded, sizes, targets)

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
        """Predictions at other sizes than the images'.

        Args:
            images: B tensors ``(3, h, w)`` RGB from 0 to 255, uint8 or float, resized as the
                weights want them.
            sizes: (height, width) for each prediction, such as those before the resizing.

        Returns:
            B predictions with ``detections``, in pixels of ``sizes``.
        """
        features, padded = self.features(images)
        inner = [_size(image) for image in images]
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
        conventions = self.config.conventions
        x = normalised(images, self.config.divisor, conventions.mean, conventions.std)
        if conventions.bgr:
            x = x.flip(1)
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


def check_targets(targets: Sequence[Target], classes: int) -> None:
    """Refuse what would make a loss meaningless or infinite.

    Raises:
        LabkitError: boxes without area or not finite, labels outside the things, or numbers of
            boxes, labels and masks that differ.
    """
    for target in targets:
        where = f"target of image {target['image_id']}"
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise LabkitError(
                f"{where}: boxes must be (N, 4) and labels (N,), "
                f"got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if len(target["masks"]) != len(labels):
            raise LabkitError(f"{where}: {len(labels)} labels but {len(target['masks'])} masks")
        bad = ~(boxes.isfinite().all(dim=1) & larger_than(boxes, 0.0))
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise LabkitError(
                f"{where}: box {i} {boxes[i].tolist()} has no area; drop objects without pixels"
            )
        outside = (labels < 0) | (labels >= classes)
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            raise LabkitError(
                f"{where}: label {int(labels[i])} of object {i} is not one of the {classes} thing "
                "classes; build the model with this data set's categories"
            )


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
