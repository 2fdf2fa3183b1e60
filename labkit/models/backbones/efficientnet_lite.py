"""EfficientNet-Lite0: a network of inverted residuals that a laptop can fine-tune.

M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019, table 1. The Lite variant (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite",
TensorFlow blog, 2020) leaves out squeeze-and-excitation, has ReLU6 in place of swish, and never
scales stem and head. Letters in shapes: ``B`` images, ``s`` a stage's stride.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.backbones.base import Backbone

BN_EPS = 1e-3
STEM_CHANNELS = 32


@dataclass(frozen=True)
class BlockGroup:
    """Blocks of one width; the first one carries the stride.

    Attributes:
        blocks: how many.
        kernel: side of the depthwise filters.
        stride: of the first block.
        expansion: how many times wider a block is inside.
        channels: of the output.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITE0 = {
    "res2": (BlockGroup(1, 3, 1, 1, 16), BlockGroup(2, 3, 2, 6, 24)),
    "res3": (BlockGroup(2, 5, 2, 6, 40),),
    "res4": (BlockGroup(3, 3, 2, 6, 80), BlockGroup(3, 5, 1, 6, 112)),
    "res5": (BlockGroup(4, 5, 2, 6, 192), BlockGroup(1, 3, 1, 6, 320)),
}
"""Table 1 of the paper, cut into stages that end at the strides 4, 8, 16 and 32."""


class SamePadConvNorm(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "SAME", and its batch norm.

    A network that begins with random weights trains its batch norms; with pretrained weights they
    are frozen (:func:`labkit.models.backbones.frozen_norm.freeze_norms`).

    With stride 2 an even map is padded by one pixel more at the right and at the bottom, where
    PyTorch's symmetric padding would move the whole grid by a pixel. Kernel and stride are known,
    and the maps' sides are multiples of the stride, so the padding is a constant.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.norm: nn.Module = nn.BatchNorm2d(outputs, BN_EPS)
        padding = kernel - stride
        before = padding // 2
        self.same_padding = (before, padding - before, before, padding - before)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.same_padding):
            x = F.pad(x, self.same_padding)
        y: Tensor = self.norm(super().forward(x))
        return y


class InvertedResidual(nn.Module):
    """Wider by a 1 × 1 convolution, depthwise filters, narrow again; a shortcut if shapes agree.

    M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, section
    3.3: the shortcut joins the narrow ends, and the last convolution has no ReLU.

    Args:
        inputs, outputs: channels.
        kernel: side of the depthwise filters.
        stride: of the depthwise convolution.
        expansion: channels inside, in multiples of ``inputs``; 1 leaves the first convolution out.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = expansion * inputs
        self.expand = SamePadConvNorm(inputs, width, 1) if expansion > 1 else None
        self.depthwise = SamePadConvNorm(width, width, kernel, stride, groups=width)
        self.project = SamePadConvNorm(width, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = F.relu6(self.depthwise(y))
        y = self.project(y)
        return x + y if self.has_shortcut else y


class EfficientNetLite(Backbone):
    """Stem of stride 2 and stages ``res2`` to ``res5`` of stride 4, 8, 16 and 32.

    The stages have the names of the residual networks' stages, which a feature pyramid expects.
    Notebook 03, section 3.9.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePadConvNorm(3, STEM_CHANNELS, 3, stride=2)
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        inputs, stride = STEM_CHANNELS, 2
        for name, groups in LITE0.items():
            blocks = []
            for group in groups:
                for k in range(group.blocks):
                    step = group.stride if k == 0 else 1
                    blocks.append(
                        InvertedResidual(
                            inputs, group.channels, group.kernel, step, group.expansion
                        )
                    )
                    inputs, stride = group.channels, stride * step
            self.add_module(name, nn.Sequential(*blocks))
            self.channels[name], self.strides[name] = inputs, stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` normalised images to ``{"res2": (B, 24, H/4, W/4), …}``.

        H and W are multiples of 32.
        """
        features = {}
        x = F.relu6(self.stem(x))  # (B, 32, H/2, W/2)
        for name in self.channels:
            x = self.get_submodule(name)(x)  # (B, c, H/s, W/s)
            features[name] = x
        return features
