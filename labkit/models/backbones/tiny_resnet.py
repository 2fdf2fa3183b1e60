"""The tiny residual network (K. He et al., "Deep Residual Learning", CVPR 2016).

Letters in shapes: ``B`` images, ``H × W`` the input, ``s`` a stage's stride.

``TinyResNet`` is what a laptop trains: basic blocks, and GroupNorm with weight standardisation in
place of batch norm. GroupNorm makes an image's result independent of its batch, so that nothing has
to be frozen or synchronised later; standardised weights give back the speed of learning that batch
norm has and GroupNorm alone lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.models.backbones.base import Backbone


class StandardConv2d(nn.Conv2d):
    """A convolution whose filters always have mean 0 and variance 1 / (number of their weights).

    S. Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization", 2019, section 3. For use before a GroupNorm, which makes its scale irrelevant.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        # "same" padding at stride 1: half of the dilated kernel's extent.
        padding = dilation * (kernel // 2)
        super().__init__(
            inputs, outputs, kernel, stride, padding=padding, dilation=dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + 1e-4)
        return self._conv_forward(x, weight, None)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels (Y. Wu, K. He, "Group Normalization", ECCV 2018, section 4.1)."""
    return nn.GroupNorm(channels // 16, channels)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut; the first convolution carries the stride.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution.
        dilations: of the two. They differ in the block whose stride was traded away: its first
            convolution still reads the finer grid, the second one the grid thinned by the stride.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.conv1 = StandardConv2d(inputs, outputs, 3, stride, dilations[0])
        self.norm1 = group_norm(outputs)
        self.conv2 = StandardConv2d(outputs, outputs, 3, 1, dilations[1])
        self.norm2 = group_norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                StandardConv2d(inputs, outputs, 1, stride), group_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class TinyResNet(Backbone):
    """Stem of stride 4 and stages ``res2`` to ``res5`` of stride 4, 8, 16 and 32.

    Notebook 01, section 1.2.

    Args:
        widths: channels of the stages; three leave ``res5`` out.
        blocks: blocks of the stages.
        output_stride: 32, 16 or 8: the largest stride. Below 32 the late stages trade their stride
            for dilation, so that every filter still sees as much of the image as before
            (L.-C. Chen et al., "DeepLab", TPAMI 2018, section 3.1).
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: Sequence[int] = (1, 1, 1, 1),
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            StandardConv2d(3, widths[0], 5, stride=2),
            group_norm(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.channels = {f"res{i}": width for i, width in enumerate(widths, 2)}
        self.strides: dict[str, int] = {}
        inputs, stride, dilation = widths[0], 4, 1
        for (name, outputs), count in zip(self.channels.items(), blocks, strict=True):
            step, before = (1 if name == "res2" else 2), dilation
            if stride * step > output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            self.add_module(name, tiny_stage(inputs, outputs, count, step, before, dilation))
            self.strides[name] = stride
            inputs = outputs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of all stages.

        Args:
            x: ``(B, 3, H, W)`` normalised images, H and W multiples of 32.

        Returns:
            ``{"res2": (B, c, H/s, W/s), ..., "res5": ...}`` with ``s`` as in ``strides``.
        """
        features = {}
        x = self.stem(x)  # (B, c2, H/4, W/4)
        for name in self.channels:
            x = self.get_submodule(name)(x)  # (B, c, H/s, W/s)
            features[name] = x
        return features


def tiny_stage(
    inputs: int, outputs: int, blocks: int, stride: int, before: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A stage of basic blocks; ``before`` is the dilation of the map that it reads."""
    stage = [BasicBlock(inputs, outputs, stride, (before, dilation))]
    stage += [BasicBlock(outputs, outputs, 1, (dilation, dilation)) for _ in range(blocks - 1)]
    return nn.Sequential(*stage)
