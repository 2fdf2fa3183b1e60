"""Residual networks (K. He et al., "Deep Residual Learning", CVPR 2016): the tiny one.

Letters in shapes: ``B`` images, ``H × W`` the input, ``s`` a stage's stride.

``TinyResNet`` is what a laptop trains: basic blocks, GroupNorm in place of batch norm (batches of
eight 128-pixel images make poor statistics, and nothing has to be frozen or synchronised later).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3 × 3 convolution that keeps the size at stride 1: padding equals dilation."""
    return nn.Conv2d(
        inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


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
        self.conv1 = conv3x3(inputs, outputs, stride, dilations[0])
        self.norm1 = group_norm(outputs)
        self.conv2 = conv3x3(outputs, outputs, 1, dilations[1])
        self.norm2 = group_norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), group_norm(outputs)
            )
        # Starting as the identity lets a deeper network start as easily as a shallow one.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class TinyResNet(nn.Module):
    """Stem of stride 4 and four stages ``res2`` to ``res5`` of stride 4, 8, 16 and 32.

    Args:
        widths: channels of the four stages.
        blocks: blocks of the four stages.
        output_stride: 32, 16 or 8: the largest stride. Below 32 the late stages trade their stride
            for dilation, so that every filter still sees as much of the image as before
            (L.-C. Chen et al., "DeepLab", TPAMI 2018, section 3.1).
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (1, 1, 1, 1),
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False),
            group_norm(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.channels = dict(zip(("res2", "res3", "res4", "res5"), widths, strict=True))
        self.strides: dict[str, int] = {}
        inputs, stride, dilation = widths[0], 4, 1
        for (name, outputs), count in zip(self.channels.items(), blocks, strict=True):
            step, before = (1 if name == "res2" else 2), dilation
            if stride * step > output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            stage = [BasicBlock(inputs, outputs, step, (before, dilation))]
            stage += [
                BasicBlock(outputs, outputs, 1, (dilation, dilation)) for _ in range(count - 1)
            ]
            self.add_module(name, nn.Sequential(*stage))
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
