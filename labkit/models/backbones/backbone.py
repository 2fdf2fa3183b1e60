"""The interface of backbones: named feature maps, their channels and strides."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Network from ``(B, 3, H, W)`` normalised images to ``{name: (B, c, H/s, W/s)}``.

    Attributes:
        channels: c by name, finest map first.
        strides: s by name.
    """

    channels: dict[str, int]
    strides: dict[str, int]
