"""Feature pyramid network: strong semantics at every scale.

T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3.
Letters in shapes: ``B`` images, ``c`` channels of a stage, ``D`` channels of the pyramid.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.backbones.base import Backbone
from labkit.models.layers import xavier_conv


class FPN(Backbone):
    """``p2`` … ``p5`` from ``res2`` … ``res5``, and ``p6`` for proposals of the largest objects.

    Notebook 03, section 3.2.

    Args:
        bottom_up: the backbone; ``channels`` and ``strides`` by stage name.
        channels: D.
        group_norm: a GroupNorm of 16 channels a group after each convolution, for training from
            scratch; the published models have biases instead.
        context: the mean of the whole deepest map, through a linear layer, joins its lateral (Y.
            Xiong et al., "UPSNet", CVPR 2019). The mean includes padding.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        channels: int,
        group_norm: bool = False,
        context: bool = False,
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.levels = [int(name[3:]) for name in bottom_up.channels]  # res2 -> 2
        for level in self.levels:
            inputs = bottom_up.channels[f"res{level}"]
            self.add_module(f"lateral{level}", _conv(inputs, channels, 1, group_norm))
            self.add_module(f"output{level}", _conv(channels, channels, 3, group_norm))
        last = self.levels[-1]
        self.context = nn.Linear(bottom_up.channels[f"res{last}"], channels) if context else None
        self.strides = {f"p{n}": bottom_up.strides[f"res{n}"] for n in self.levels}
        self.strides[f"p{last + 1}"] = 2 * self.strides[f"p{last}"]
        self.channels = dict.fromkeys(self.strides, channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` normalised images to ``{"p2": (B, D, H/4, W/4), …, "p6": …}``."""
        stages = self.bottom_up(x)
        features: dict[str, Tensor] = {}
        top_down: Tensor | None = None
        for level in reversed(self.levels):
            lateral = self.get_submodule(f"lateral{level}")(stages[f"res{level}"])
            if top_down is None and self.context is not None:
                mean = stages[f"res{level}"].mean(dim=(2, 3))  # (B, c)
                lateral = lateral + self.context(mean)[:, :, None, None]
            if top_down is not None:
                lateral = lateral + F.interpolate(top_down, scale_factor=2.0, mode="nearest")
            top_down = lateral
            features[f"p{level}"] = self.get_submodule(f"output{level}")(lateral)
        last = self.levels[-1]
        features[f"p{last + 1}"] = F.max_pool2d(features[f"p{last}"], kernel_size=1, stride=2)
        return {name: features[name] for name in self.strides}


def _conv(inputs: int, outputs: int, kernel: int, group_norm: bool) -> nn.Module:
    conv = xavier_conv(inputs, outputs, kernel, bias=not group_norm)
    if not group_norm:
        return conv
    return nn.Sequential(conv, nn.GroupNorm(outputs // 16, outputs))
