"""What every backbone promises: feature maps by name, and how coarse each one is."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Takes ``(B, 3, H, W)`` normalised images, returns ``{name: (B, c, H/s, W/s)}``.

    Attributes:
        channels: c by name, finest map first.
        strides: s by name.
    """

    channels: dict[str, int]
    strides: dict[str, int]
