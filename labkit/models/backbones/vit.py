"""Vision transformer, as DINOv2 trains it: patches as tokens, a class token, registers.

A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; DINOv2: M. Oquab et al., TMLR
2024; registers: T. Darcet et al., ICLR 2024; LayerScale: H. Touvron et al., ICCV 2021. Module names
are those of timm.

Letters in shapes: ``B`` images, ``D`` channels, ``N`` tokens: the class token, the registers, then
the patches row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError

EPSILON = 1e-6  # of the layer norms


@dataclass(frozen=True)
class ViTConfig:
    """Vision transformer configuration.

    Attributes:
        width: D.
        depth: number of blocks.
        num_heads: of each.
        patch_size: side of a patch in pixels.
        image_size: side of the square that it sees; positions are learnt for it alone.
        num_registers: tokens beside the class token that no patch belongs to.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int = 16
    image_size: int = 640
    num_registers: int = 4

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.image_size // self.patch_size


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """``x`` ``(B, N, D)``; ``allowed`` ``(B, 1, N, N)`` bool, who may look at whom."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, N, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class LayerScale(nn.Module):
    """A factor for each channel of a branch, small at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Attention, then a feed-forward network; each of normalised tokens, scaled and added."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width, num_heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = FeedForward(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """``(B, N, D)`` to the same; ``allowed`` as in :class:`Attention`."""
        x = x + self.ls1(self.attn(self.norm1(x), allowed))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """A linear layer of each patch's pixels, written as a convolution."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, patches, D)``."""
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """Vision transformer up to some of its blocks; the rest is for models that add tokens.

    Notebook 10, section 10.9.

    Args:
        config: the configuration.
        stop: number of blocks that :meth:`forward` runs.
    """

    def __init__(self, config: ViTConfig, stop: int) -> None:
        super().__init__()
        self.config = config
        self.stop = stop
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, config.num_registers, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2, width))
        self.patch_embed = PatchEmbed(width, config.patch_size)
        self.blocks = nn.ModuleList(Block(width, config.num_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        for parameter in (self.pos_embed, self.reg_token, self.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, image_size, image_size)`` normalised images to ``(B, N, D)`` tokens.

        Raises:
            LabkitError: the images have another size.
        """
        side = self.config.image_size
        if x.shape[2:] != (side, side):
            raise LabkitError(
                f"input of {x.shape[2]} x {x.shape[3]} pixels: this network's position embedding is"
                f" for {side} x {side}; train on crops of that size (labkit train --crop {side}),"
                " and predict with the preset's preprocessing"
            )
        # The class token and the registers have no position (DINOv2 with registers).
        patches = self.patch_embed(x) + self.pos_embed
        special = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(x), -1, -1)
        tokens = torch.cat([special, patches], dim=1)
        for block in self.blocks[: self.stop]:
            tokens = block(tokens)
        return tokens
