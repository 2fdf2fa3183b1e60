"""What a Mask R-CNN is made of: conventions, backbone and heads, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.models.backbones.config import BackboneConfig, res5_stage
from labkit.models.detector import DetectorConfig
from labkit.models.rcnn.roi_config import RoIConfig
from labkit.models.rcnn.roi_heads import C4Heads, FPNHeads, RoIHeads
from labkit.models.rcnn.rpn import RPNConfig

if TYPE_CHECKING:
    from labkit.models.rcnn.mask_rcnn import MaskRCNN
    from labkit.structures import Categories


@dataclass(frozen=True)
class MaskRCNNConfig(DetectorConfig):
    """Every number of a Mask R-CNN.

    Attributes:
        backbone: residual network, with or without pyramid.
        rpn: of the proposals.
        roi: of the heads.
        masks: False leaves the mask branch out: Faster R-CNN.
    """

    backbone: BackboneConfig
    rpn: RPNConfig
    roi: RoIConfig
    masks: bool = True

    def build(self, categories: Categories) -> MaskRCNN:
        """A model with fresh weights."""
        from labkit.models.rcnn.mask_rcnn import MaskRCNN

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
