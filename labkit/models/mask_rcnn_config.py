"""What a Mask R-CNN is made of: conventions, backbone and heads, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from labkit.models.backbones import BackboneConfig, res5_stage
from labkit.models.images import IMAGENET_MEAN, IMAGENET_STD
from labkit.models.roi_config import RoIConfig
from labkit.models.roi_heads import C4Heads, FPNHeads, RoIHeads
from labkit.models.rpn import RPNConfig

if TYPE_CHECKING:
    from labkit.models.mask_rcnn import MaskRCNN
    from labkit.structures import Categories


@dataclass(frozen=True)
class Conventions:
    """Choices that the papers leave open and that every published checkpoint depends on.

    The same architecture with the other column's choices loads the same weights and returns other
    numbers. What belongs to one part (anchors, RoIAlign, losses) is in that part's numbers.

    Attributes:
        bgr: the network sees blue first.
        mean, std: of red, green and blue, in units of 0 to 255.
        paste_resized: how masks get back into the image, see ``pasting.py``.
        resize: what :class:`labkit.predictor.Predictor` does to an image first: "whole", whole grey
            levels (Pillow); "float", interpolated as numbers (torchvision); "opencv", the same by
            OpenCV, which rounds sizes; None, nothing.
        short, long: the sides that it is resized to: the shorter one to ``short``, unless the other
            one would get longer than ``long``.
    """

    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paste_resized: bool
    resize: Literal["whole", "float", "opencv"] | None = None
    short: int = 800
    long: int = 1333

    def scale(self, size: tuple[int, int]) -> float:
        """How much an image of ``size`` (height, width) is enlarged under "opencv"."""
        scale = self.short / min(size)
        if round(scale * max(size)) > self.long:
            scale = self.long / max(size)
        return max(scale, 1 / min(size))  # a flat one keeps a row


DETECTRON2 = Conventions(True, IMAGENET_MEAN, (1.0, 1.0, 1.0), paste_resized=False, resize="whole")
TORCHVISION = Conventions(False, IMAGENET_MEAN, IMAGENET_STD, paste_resized=True, resize="float")
UPSNET = Conventions(
    True,
    (122.7717, 115.9465, 102.9801),
    (1.0, 1.0, 1.0),
    paste_resized=True,
    resize="opencv",
)
LABKIT = Conventions(False, IMAGENET_MEAN, IMAGENET_STD, paste_resized=False)
"""For networks trained here: nothing to be compatible with, so the simpler choice of each."""


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Every number of a Mask R-CNN.

    Attributes:
        conventions: see :class:`Conventions`.
        backbone: residual network, with or without pyramid.
        rpn: of the proposals.
        roi: of the heads.
        masks: False leaves the mask branch out: Faster R-CNN.
    """

    conventions: Conventions
    backbone: BackboneConfig
    rpn: RPNConfig
    roi: RoIConfig
    masks: bool = True

    def build(self, categories: Categories) -> MaskRCNN:
        """A model with fresh weights."""
        from labkit.models.mask_rcnn import MaskRCNN

        return MaskRCNN(self, categories)

    @property
    def divisor(self) -> int:
        """Images are padded to a multiple of this, so that the pyramid's levels fit each other."""
        return 32 if self.backbone.kind == "fpn" else 1

    def heads(self, channels: int, strides: dict[str, int], classes: int) -> RoIHeads:
        """The second stage on maps of ``channels``."""
        if self.backbone.kind != "c4":
            return FPNHeads(channels, strides, classes, self.roi, self.masks)
        res5, outputs = res5_stage(self.backbone)
        return C4Heads(res5, outputs, strides, classes, self.roi, self.masks)
