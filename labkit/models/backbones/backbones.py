"""Backbones of the detectors by configuration: pyramid, C4 and DC5, full-size and tiny."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from labkit.models.backbones.fpn import FPN
from labkit.models.backbones.resnet import BLOCKS, Backbone, ResNet, stage
from labkit.models.backbones.tiny_resnet import TinyResNet, tiny_stage

TINY_WIDTHS = (32, 64, 96, 128)
TINY_BLOCKS = (1, 1, 1, 1)


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone configuration.

    Attributes:
        kind: "fpn", a pyramid on all stages; "c4", the map of ``res4``, with ``res5`` in the heads;
            "dc5", the map of a dilated ``res5``; "c5", of an ordinary one.
        depth: layers, 50 or 101; 0 is the tiny network.
        pyramid: channels of the pyramid.
        stride_in_1x1, eps, frozen, deformable, late_dilation: of
            :class:`labkit.models.backbones.resnet.ResNet`.
        context: of :class:`labkit.models.backbones.fpn.FPN`.
    """

    kind: Literal["fpn", "c4", "c5", "dc5"]
    depth: int
    pyramid: int = 256
    stride_in_1x1: bool = True
    eps: float = 1e-5
    frozen: int = 2
    deformable: bool = False
    late_dilation: bool = False
    context: bool = False

    def build(self) -> Backbone:
        """A network with fresh weights; ``channels`` and ``strides`` by name of its maps."""
        if self.depth == 0:
            stages = 3 if self.kind == "c4" else 4
            bottom_up: Backbone = TinyResNet(
                TINY_WIDTHS[:stages], TINY_BLOCKS[:stages], 16 if self.kind == "dc5" else 32
            )
        else:
            bottom_up = ResNet(
                self.depth,
                last=4 if self.kind == "c4" else 5,
                dilated=self.kind == "dc5",
                stride_in_1x1=self.stride_in_1x1,
                eps=self.eps,
                frozen=self.frozen,
                deformable=self.deformable,
                late_dilation=self.late_dilation,
            )
        if self.kind == "fpn":
            return FPN(bottom_up, self.pyramid, self.depth == 0, self.context)
        return bottom_up


def res5_stage(config: BackboneConfig) -> tuple[nn.Module, int]:
    """The last stage for the heads of a C4 detector, and its channels."""
    if config.depth == 0:
        *_, inputs, outputs = TINY_WIDTHS
        return tiny_stage(inputs, outputs, TINY_BLOCKS[-1], stride=2), outputs
    blocks = BLOCKS[config.depth][-1]
    return stage(1024, 512, blocks, 2, 1, config.stride_in_1x1, config.eps), 2048
