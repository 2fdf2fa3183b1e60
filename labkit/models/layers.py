"""Layers that several models share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Three linear layers, as DETR's and Mask2Former's heads of a query.

    Args:
        d_model: channels of the input and between the layers.
        outputs: channels of the output.
    """

    def __init__(self, d_model: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(d_model, n) for n in (d_model, d_model, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d_model)`` to ``(..., outputs)``."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


def xavier_conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the map's size, initialised as Detectron2's ``c2_xavier_fill``."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def resize_bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps ``(B, channels, ., .)`` bilinearly to ``(B, channels, *size)``."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
