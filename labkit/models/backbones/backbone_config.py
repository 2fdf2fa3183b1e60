"""Backbones of the detectors by configuration: pyramid, C4 and DC5, of four networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from labkit.models.backbones.base import Backbone
from labkit.models.backbones.efficientnet_lite import EfficientNetLite
from labkit.models.backbones.fpn import FPN
from labkit.models.backbones.resnet import BLOCKS, ResNet, stage
from labkit.models.backbones.tiny_resnet import TinyResNet, tiny_stage

Network = Literal["tiny_resnet", "efficientnet_lite0", "resnet50", "resnet101"]
DEPTHS = {"resnet50": 50, "resnet101": 101}
TINY_WIDTHS = (32, 64, 96, 128)
TINY_BLOCKS = (1, 1, 1, 1)


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone configuration.

    Attributes:
        kind: "fpn", a pyramid on all stages; "c4", the map of ``res4``, with ``res5`` in the heads;
            "dc5", the map of a dilated ``res5``; "c5", of an ordinary one. EfficientNet-Lite0 has
            the first alone.
        network: the bottom-up network.
        pyramid: channels of the pyramid.
        stride_in_1x1, eps, frozen, deformable, late_dilation: of
            :class:`labkit.models.backbones.resnet.ResNet`.
        context: of :class:`labkit.models.backbones.fpn.FPN`.
    """

    kind: Literal["fpn", "c4", "c5", "dc5"]
    network: Network
    pyramid: int = 256
    stride_in_1x1: bool = True
    eps: float = 1e-5
    frozen: int = 2
    deformable: bool = False
    late_dilation: bool = False
    context: bool = False

    def build(self) -> Backbone:
        """A network with fresh weights; ``channels`` and ``strides`` by name of its maps."""
        if self.network == "tiny_resnet":
            stages = 3 if self.kind == "c4" else 4
            bottom_up: Backbone = TinyResNet(
                TINY_WIDTHS[:stages], TINY_BLOCKS[:stages], 16 if self.kind == "dc5" else 32
            )
        elif self.network == "efficientnet_lite0":
            assert self.kind == "fpn"
            bottom_up = EfficientNetLite()
        else:
            bottom_up = ResNet(
                DEPTHS[self.network],
                last=4 if self.kind == "c4" else 5,
                dilated=self.kind == "dc5",
                stride_in_1x1=self.stride_in_1x1,
                eps=self.eps,
                frozen=self.frozen,
                deformable=self.deformable,
                late_dilation=self.late_dilation,
            )
        if self.kind == "fpn":
            return FPN(bottom_up, self.pyramid, self.network not in DEPTHS, self.context)
        return bottom_up


def res5_stage(config: BackboneConfig) -> tuple[nn.Module, int]:
    """The last stage for the heads of a C4 detector, and its channels."""
    if config.network == "tiny_resnet":
        *_, inputs, outputs = TINY_WIDTHS
        return tiny_stage(inputs, outputs, TINY_BLOCKS[-1], stride=2), outputs
    blocks = BLOCKS[DEPTHS[config.network]][-1]
    return stage(1024, 512, blocks, 2, 1, config.stride_in_1x1, config.eps), 2048
