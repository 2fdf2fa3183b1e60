"""Frozen batch norm: the layer, how a network gets it, and how prediction gets rid of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed scale: one multiplication and one addition.

    Detectors are fine-tuned with few images a GPU, from which no statistics can be had.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels) - eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            # Autograd keeps less for this form: batch_norm would keep x for the scale's gradient.
            scale, shift = self.scale_and_shift()
            return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps
        )

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the layer multiplies by and adds, ``(channels,)`` each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def freeze_norms(model: nn.Module) -> None:
    """Replace batch norms by frozen ones with the same values, in place.

    For networks with trained weights: the few images of a step have no reliable statistics.
    """
    for layer in list(model.modules()):
        for name, norm in layer.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
                values = norm.state_dict()
                frozen.load_state_dict({key: values[key] for key in frozen.state_dict()})
                setattr(layer, name, frozen)


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Fold frozen batch norms into the convolutions before them, in place.

    Fewer passes over the feature maps; results change by rounding only. For evaluation: the folded
    model has other parameter names than its checkpoint.
    """
    for layer in model.modules():
        norm = getattr(layer, "norm", None)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale, shift = norm.scale_and_shift()
            layer.weight.mul_(scale[:, None, None, None])
            layer.bias = nn.Parameter(shift.clone(), requires_grad=False)
            layer.norm = nn.Identity()
