"""Folding of frozen batch norms into the convolutions before them."""

from __future__ import annotations

import torch
from torch import nn

from labkit.models.backbones.resnet import ConvNorm, FrozenBatchNorm2d


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Fold frozen batch norms into the convolutions before them, in place.

    Fewer passes over the feature maps; results change by rounding only. For evaluation: the folded
    model has other parameter names than its checkpoint.
    """
    for layer in model.modules():
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, FrozenBatchNorm2d):
            scale, shift = layer.norm.scale_and_shift()
            layer.weight.mul_(scale[:, None, None, None])
            layer.bias = nn.Parameter(shift.clone(), requires_grad=False)
            layer.norm = nn.Identity()
