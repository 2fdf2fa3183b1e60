"""What the detectors expect of a backbone: feature maps by name, with their channels and strides.

Letters in shapes: ``B`` images, ``c`` channels of a map, ``s`` its stride.
"""

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
