"""The residual networks of the published detectors: 50 and 101 layers, frozen batch norm.

K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1. Module names are
those of Detectron2's checkpoints. Letters in shapes: ``B`` images, ``s`` a stage's stride.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.backbones.base import Backbone
from labkit.models.backbones.frozen_norm import FrozenBatchNorm2d
from labkit.ops.deform_conv import deform_conv2d

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEM_CHANNELS = 64


class ConvNorm(nn.Conv2d):
    """A convolution without bias, and its norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, eps: float, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            inputs, outputs, kernel, stride, padding=padding, dilation=dilation, bias=False
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.norm: nn.Module = FrozenBatchNorm2d(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(super().forward(x))
        return y


class DeformConvNorm(ConvNorm):
    """A 3 × 3 convolution that looks where its own input tells it to, and its norm.

    J. Dai et al., "Deformable Convolutional Networks", ICCV 2017, section 2.1. It starts as the
    plain convolution: the offsets begin at 0.
    """

    def __init__(self, inputs: int, outputs: int, eps: float, stride: int, dilation: int) -> None:
        super().__init__(inputs, outputs, 3, eps, stride, dilation)
        self.offset = nn.Conv2d(inputs, 2 * 9, 3, stride, padding=dilation, dilation=dilation)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        moved = deform_conv2d(
            x,
            self.offset(x),
            self.weight,
            self.bias,
            (self.stride[0], self.stride[1]),
            (int(self.padding[0]), int(self.padding[1])),
            (self.dilation[0], self.dilation[1]),
        )
        y: Tensor = self.norm(moved)
        return y


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolution, and a shortcut.

    Args:
        inputs, width, outputs: channels before, between and after.
        stride: of the block.
        dilation: of the 3 × 3 convolution.
        stride_in_1x1: which convolution carries the stride: the first (the original weights) or
            the 3 × 3 one (torchvision), which then skips no pixel.
        eps: of the norms.
        deformable: the 3 × 3 convolution is one of :class:`DeformConvNorm`.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,
        eps: float,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        first, middle = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(inputs, width, 1, eps, stride=first)
        if deformable:
            self.conv2: ConvNorm = DeformConvNorm(width, width, eps, middle, dilation)
        else:
            self.conv2 = ConvNorm(width, width, 3, eps, stride=middle, dilation=dilation)
        self.conv3 = ConvNorm(width, outputs, 1, eps)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = ConvNorm(inputs, outputs, 1, eps, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        # In place: fresh memory for a large map costs as much as the arithmetic.
        out = F.relu(self.conv1(x), inplace=True)
        out = F.relu(self.conv2(out), inplace=True)
        out = self.conv3(out).add_(self.shortcut(x))
        return F.relu(out, inplace=True)


def stage(
    inputs: int,
    width: int,
    blocks: int,
    stride: int,
    dilation: int,
    stride_in_1x1: bool,
    eps: float,
    deformable: bool = False,
    late_dilation: bool = False,
) -> nn.Sequential:
    """A stage of ``blocks`` bottlenecks, ``inputs`` to ``4 · width`` channels."""

    def block(inputs: int, stride: int, dilation: int) -> Bottleneck:
        return Bottleneck(
            inputs, width, 4 * width, stride, dilation, stride_in_1x1, eps, deformable
        )

    first = block(inputs, stride, 1 if late_dilation else dilation)
    return nn.Sequential(first, *(block(4 * width, 1, dilation) for _ in range(blocks - 1)))


class Stem(nn.Module):
    """7 × 7 convolution and pooling, stride 4."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, STEM_CHANNELS, 7, eps, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x), inplace=True), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """Stem and stages ``res2`` to ``res5``, strides 4, 8, 16 and 32.

    Notebook 03, section 3.11.

    Args:
        depth: 50 or 101.
        last: 5, or 4 to leave ``res5`` to the RoI heads (C4).
        dilated: ``res5`` keeps stride 16; its 3 × 3 convolutions, all of them, are dilated by 2
            (DC5 as in Detectron2).
        late_dilation: but for the first block's, which reads a map whose stride is still right
            (DC5 as in torchvision and DETR).
        stride_in_1x1, eps: see :class:`Bottleneck`.
        frozen: stages that are not trained, counted from the stem; 2 freezes stem and ``res2``.
        deformable: the 3 × 3 convolutions of ``res3`` and later are deformable.
    """

    def __init__(
        self,
        depth: int,
        last: int = 5,
        dilated: bool = False,
        stride_in_1x1: bool = True,
        eps: float = 1e-5,
        frozen: int = 2,
        deformable: bool = False,
        late_dilation: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Stem(eps)
        self.channels = {f"res{n}": 256 * 2 ** (n - 2) for n in range(2, last + 1)}
        self.strides: dict[str, int] = {}
        inputs, stride = STEM_CHANNELS, 4
        for (name, outputs), blocks in zip(self.channels.items(), BLOCKS[depth], strict=False):
            widen = dilated and name == "res5"
            step = 1 if name == "res2" or widen else 2
            dilation = 2 if widen else 1
            layers = stage(
                inputs,
                outputs // 4,
                blocks,
                stride=step,
                dilation=dilation,
                stride_in_1x1=stride_in_1x1,
                eps=eps,
                deformable=deformable and name != "res2",
                late_dilation=late_dilation,
            )
            self.add_module(name, layers)
            stride *= step
            self.strides[name] = stride
            inputs = outputs
        for name in ["stem", *self.channels][:frozen]:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` normalised images to ``{"res2": (B, 256, H/4, W/4), …}``."""
        features = {}
        x = self.stem(x)
        for name in self.channels:
            x = self.get_submodule(name)(x)  # (B, c, H/s, W/s)
            features[name] = x
        return features
