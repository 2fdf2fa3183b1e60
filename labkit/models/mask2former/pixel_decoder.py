"""Mask2Former's pixel decoder: from the backbone's maps to mask features and three memories.

B. Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022,
section 3.2.1 and appendix; its encoder is Deformable DETR's (X. Zhu et al., ICLR 2021).

Letters in shapes: ``B`` images, ``D`` channels, ``S`` levels, coarse to fine, ``h × w`` one level,
``T`` cells of all levels in a row, ``h₄ × w₄`` the map of stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.models.detr.transformer import sine_positions
from labkit.models.layers import resize_bilinear, xavier_conv
from labkit.models.mask2former.deformable_attention import DeformableEncoderLayer


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Pixel decoder configuration.

    Attributes:
        levels: the backbone's maps for the encoder, coarse to fine.
        finest: its map of stride 4.
        d_model: D.
        groups: of the group norms.
        encoder_layers: number of deformable layers.
        num_heads, num_points, dim_feedforward: of
            :class:`~labkit.models.mask2former.deformable_attention.DeformableEncoderLayer`.
        stride_2: whether a transposed convolution, as in Mask R-CNN's mask head, brings the mask
            features to stride 2: for images so small that an object is a few pixels wide.
    """

    levels: tuple[str, ...] = ("res5", "res4", "res3")
    finest: str = "res2"
    d_model: int = 256
    groups: int = 32
    encoder_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    dim_feedforward: int = 1024
    stride_2: bool = False


class PixelDecoder(nn.Module):
    """Deformable attention among three levels, then one top-down step to stride 4.

    Notebook 10, section 10.4.

    Args:
        config: the configuration.
        channels: of the backbone's maps, by name.
    """

    def __init__(self, config: PixelDecoderConfig, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        d_model, groups = config.d_model, config.groups
        projections = [xavier_conv(channels[name], d_model, 1) for name in config.levels]
        for conv in projections:
            nn.init.xavier_uniform_(conv.weight)  # Deformable DETR's: also by the output channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(groups, d_model)) for conv in projections
        )
        self.level_embed = nn.Parameter(torch.randn(len(config.levels), d_model))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                d_model,
                config.num_heads,
                len(config.levels),
                config.num_points,
                config.dim_feedforward,
            )
            for _ in range(config.encoder_layers)
        )
        self.lateral = nn.Sequential(
            xavier_conv(channels[config.finest], d_model, 1, bias=False),
            nn.GroupNorm(groups, d_model),
        )
        self.output = nn.Sequential(
            xavier_conv(d_model, d_model, 3, bias=False), nn.GroupNorm(groups, d_model), nn.ReLU()
        )
        self.upsample = doubling(d_model) if config.stride_2 else nn.Identity()
        self.mask_features = xavier_conv(d_model, d_model, 1)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the backbone's maps.

        Args:
            features: by name, ``(B, channels, h, w)``.

        Returns:
            Mask features ``(B, D, h₄, w₄)``, with ``stride_2`` twice as high and wide, and S maps
            ``(B, D, h, w)``, coarse to fine.
        """
        # In float32 whatever the autocast: sampling locations are fractions of the map's side, and
        # half precision moves them by a noticeable part of a cell.
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            maps = self.encode([features[name].float() for name in self.config.levels])
            lateral = self.lateral(features[self.config.finest].float())
            upsampled = resize_bilinear(maps[-1], lateral.shape[-2:])
            finest = self.upsample(self.output(lateral + upsampled))
            return self.mask_features(finest), maps

    def encode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Deformable self-attention among all cells of all levels.

        Args:
            maps: S of the backbone's maps ``(B, channels, h, w)``.

        Returns:
            S maps ``(B, D, h, w)``.
        """
        projected = [proj(m) for proj, m in zip(self.input_proj, maps, strict=True)]
        sizes = [(m.shape[2], m.shape[3]) for m in projected]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1)  # (B, T, D)
        positions = torch.cat(
            [
                level_positions(size, self.config.d_model, tokens) + embedding
                for size, embedding in zip(sizes, self.level_embed, strict=True)
            ]
        )  # (T, D)
        reference = torch.cat([cell_centres(size, tokens) for size in sizes])  # (T, 2)
        for layer in self.layers:
            tokens = layer(tokens, positions, reference, sizes)
        levels = tokens.split([h * w for h, w in sizes], dim=1)
        return [
            level.transpose(1, 2).unflatten(2, size)
            for level, size in zip(levels, sizes, strict=True)
        ]


def doubling(channels: int) -> nn.Module:
    """A transposed convolution that doubles a map's sides; at first it repeats each cell."""
    conv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(channels)[..., None, None].expand_as(conv.weight))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.ReLU())


def level_positions(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Sine positions ``(h · w, channels)`` of a level's cells, those of the padding too."""
    no_padding = torch.zeros(1, *size, dtype=torch.bool, device=like.device)
    return sine_positions(no_padding, channels)[0].flatten(1).T


def cell_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """``(h · w, 2)`` x and y of the centres of a level's cells, as fractions of its sides."""
    y, x = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in size)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1)
