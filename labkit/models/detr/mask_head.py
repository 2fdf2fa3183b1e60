"""DETR's mask head: attention maps of the queries, refined by the backbone's finer maps.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4, figure 8.

Letters in shapes: ``B`` images, ``D`` channels, ``h × w`` the transformer's map, ``N`` queries that
get a mask, those of all images in a row, ``M`` heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # of the group norms


class AttentionMaps(nn.Module):
    """Attention maps of the queries over the cells, for each head (attention without values).

    Notebook 08, section 8.10.

    Args:
        d_model: D.
        num_heads: M.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.heads = num_heads
        self.q_linear = nn.Linear(d_model, d_model)
        self.k_linear = nn.Linear(d_model, d_model)
        for layer in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query_features: Tensor, memory: Tensor, padding: Tensor, image: Tensor
    ) -> Tensor:
        """Maps ``(N, M, h, w)``; all heads' maps of a query add up to 1.

        Args:
            query_features: ``(N, D)``.
            memory: ``(B, D, h, w)``.
            padding: ``(B, h, w)`` bool; nothing attends to it.
            image: ``(N,)``, which image each query belongs to.
        """
        weight = self.k_linear.weight[:, :, None, None]
        keys = F.conv2d(memory, weight, self.k_linear.bias)  # a linear layer for every cell
        keys = keys.unflatten(1, (self.heads, -1))  # (B, M, D / M, h, w)
        q = self.q_linear(query_features).unflatten(1, (self.heads, -1))  # (N, M, D / M)
        q = q * q.shape[-1] ** -0.5
        logits = torch.einsum("nmd,nmdhw->nmhw", q, keys[image])
        logits = logits.masked_fill(padding[image][:, None], -torch.inf)
        return logits.flatten(1).softmax(dim=1).view_as(logits)


class DETRMaskHead(nn.Module):
    """A small feature pyramid for every query: convolutions, joined by the backbone's finer maps.

    Notebook 08, section 8.10.

    Args:
        d_model: D.
        num_heads: M.
        skips: channels of the backbone's maps that join, coarse to fine.
        channels: after the second convolution and after each join.
    """

    def __init__(
        self, d_model: int, num_heads: int, skips: Sequence[int], channels: Sequence[int]
    ) -> None:
        super().__init__()
        first = d_model + num_heads
        layers = (first, first, *channels)
        for i, (a, b) in enumerate(itertools.pairwise(layers), 1):
            self.add_module(f"lay{i}", nn.Conv2d(a, b, 3, padding=1))
            self.add_module(f"gn{i}", nn.GroupNorm(GROUPS, b))
        for i, (skip, joined) in enumerate(zip(skips, channels, strict=False), 1):
            self.add_module(f"adapter{i}", nn.Conv2d(skip, joined, 1))
        self.out_lay = nn.Conv2d(channels[-1], 1, 3, padding=1)
        self.skips = len(skips)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, attention: Tensor, finer: Sequence[Tensor], image: Tensor
    ) -> Tensor:
        """Mask logits ``(N, H, W)`` at the size of the finest map.

        Args:
            x: ``(B, D, h, w)``, the transformer's input.
            attention: ``(N, M, h, w)``.
            finer: the backbone's maps ``(B, ., ., .)``, coarse to fine.
            image: ``(N,)``, which image each query belongs to.
        """
        y = torch.cat([x[image], attention], dim=1)
        y = self._layer(2, self._layer(1, y))
        for i, skip in enumerate(finer, 1):
            # The adapter runs once an image, not once a query.
            joined = self.get_submodule(f"adapter{i}")(skip)
            y = joined[image] + F.interpolate(y, size=joined.shape[-2:], mode="nearest")
            y = self._layer(2 + i, y)
        masks: Tensor = self.out_lay(y)[:, 0]
        return masks

    def _layer(self, number: int, y: Tensor) -> Tensor:
        y = self.get_submodule(f"gn{number}")(self.get_submodule(f"lay{number}")(y))
        return F.relu(y, inplace=True)
