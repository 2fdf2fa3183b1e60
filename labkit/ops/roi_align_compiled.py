"""The compiled RoIAlign of ``labkit/csrc`` as a PyTorch operator, loaded at first use.

A kernel becomes an operator by further registrations: a rule for autograd, a fake kernel
that only computes shapes (for ``torch.compile`` and export), and a rule for autocast.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops import build_kernels
from labkit.system.compiled_library import BuildError

log = logging.getLogger("labkit")


@cache
def load_operator(device: str) -> None:
    """Load ``torch.ops.labkit.roi_align`` for a device type, compiling it if needed.

    Raises:
        LabkitError: the device is neither "cpu" nor "cuda".
        BuildError: it cannot be compiled or loaded here.
    """
    if device not in ("cpu", "cuda"):
        raise LabkitError(f"the compiled RoIAlign runs on cpu and cuda, not on {device}")
    if device == "cuda":
        load_operator("cpu")  # the schemas are in this library
    built = build_kernels.build_kernels("cpu" if device == "cpu" else build_kernels.gpu_backend())
    if built.note:
        log.warning("labkit: %s", built.note)
    try:
        torch.ops.load_library(built.path)
    except OSError as error:
        raise BuildError(
            f"{built.path} cannot be loaded ({error}); delete it to have it built again"
        ) from error
    if device == "cpu":
        _register()


def operator_available(device: str) -> bool:
    """Whether the compiled operator runs on this device type; warns once if not."""
    return _available(device)


# torch.compile shall call this while it traces and keep the answer. torch.compiler has a decorator
# that sets this mark (assume_constant_result), but it imports the whole compiler: seconds, for all.
operator_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _available(device: str) -> bool:
    if device not in ("cpu", "cuda"):
        return False
    try:
        load_operator(device)
    except BuildError as error:
        instead = "torchvision" if device == "cuda" else "plain PyTorch"
        log.warning("labkit: RoIAlign on %s runs in %s, slower: %s", device, instead, error)
        return False
    return True


def roi_align(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign ``(K, C, *size)`` of arguments that ``roi_arguments.check_rois`` has checked.

    K. He et al., "Mask R-CNN", ICCV 2017, section 3. Notebook 02, section 2.6.

    Raises:
        BuildError: the operator cannot be compiled here.
    """
    if not operator_available(input.device.type):
        load_operator(input.device.type)  # raises, with the reason
    pooled: Tensor = torch.ops.labkit.roi_align(input, rois, scale, *size, ratio, aligned)
    return pooled


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether results are channels-last, by the rule of ``csrc/checks.h``."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _register() -> None:
    """Register the derivatives and result shapes of the two operators.

    Each is the other's derivative: pooling is linear in the map.
    """
    forward = torch.ops.labkit.roi_align
    backward = torch.ops.labkit.roi_align_backward

    @torch.library.register_fake("labkit::roi_align")
    def _(
        input: Tensor,
        rois: Tensor,
        scale: float,
        height: int,
        width: int,
        ratio: int,
        aligned: bool,
    ) -> Tensor:
        return input.new_empty((rois.shape[0], input.shape[1], height, width)).to(
            memory_format=_memory_format(_is_channels_last(input))
        )

    @torch.library.register_fake("labkit::roi_align_backward")
    def _(
        grad: Tensor,
        rois: Tensor,
        scale: float,
        batch: int,
        channels: int,
        height: int,
        width: int,
        ratio: int,
        aligned: bool,
        channels_last: bool,
    ) -> Tensor:
        return grad.new_empty((batch, channels, height, width)).to(
            memory_format=_memory_format(channels_last)
        )

    def keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, rois, ctx.scale, _, _, ctx.ratio, ctx.aligned = inputs
        ctx.save_for_backward(rois)
        ctx.shape, ctx.channels_last = input.shape, _is_channels_last(input)

    def differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        result = backward(
            grad, rois, ctx.scale, *ctx.shape, ctx.ratio, ctx.aligned, ctx.channels_last
        )
        return result, *[None] * 6

    def keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, rois, ctx.scale, *_, ctx.ratio, ctx.aligned, _ = inputs
        ctx.save_for_backward(rois)
        ctx.size = grad.shape[2:]

    def differentiate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        return forward(grad, rois, ctx.scale, *ctx.size, ctx.ratio, ctx.aligned), *[None] * 9

    torch.library.register_autograd(
        "labkit::roi_align", differentiate_forward, setup_context=keep_forward
    )
    torch.library.register_autograd(
        "labkit::roi_align_backward", differentiate_backward, setup_context=keep_backward
    )
    for device in ("cpu", "cuda"):
        _register_autocast(device)


# Registrations live as long as this object.
_autocast_rules = torch.library.Library("labkit", "FRAGMENT")


def _register_autocast(device: str) -> None:
    """Register the autocast rule: a half-precision map keeps its type, boxes become float32.

    The kernel accumulates in float32. Boxes in half precision would be off by whole pixels.
    """

    def rule(input: Tensor, rois: Tensor, *rest: Any) -> Tensor:
        with torch.autocast(device, enabled=False):
            rois = rois.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
            pooled: Tensor = torch.ops.labkit.roi_align(input, rois, *rest)
            return pooled

    _autocast_rules.impl("roi_align", rule, f"Autocast{device.upper()}")
