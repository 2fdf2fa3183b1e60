"""What a DETR is made of: conventions, backbone, transformer and losses, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labkit.models.backbones.config import BackboneConfig
from labkit.models.detector import DetectorConfig
from labkit.models.detr.criterion import LossConfig

if TYPE_CHECKING:
    from labkit.models.detr.detr import DETR
    from labkit.structures import Categories


@dataclass(frozen=True)
class DETRConfig(DetectorConfig):
    """Every number of a DETR.

    Attributes:
        backbone: residual network.
        levels: its maps: first the transformer's, then those of the mask head, coarse to fine.
        width, heads, hidden, dropout, encoder_layers, decoder_layers: of
            :class:`~labkit.models.detr.transformer.Transformer`.
        queries: Q.
        ids: where positive, an output stands for the category id of its number, and there are so
            many; 0: for the label of its number.
        panoptic: whether stuff regions are objects too.
        mask_widths: of :class:`~labkit.models.detr.mask_head.MaskHead`; None for boxes alone.
        frozen: only the mask head is trained.
        loss: weights.
        score: queries at or below it take no part in the panoptic map.
        smallest: segments of the panoptic map with at most so many pixels are dropped.
    """

    backbone: BackboneConfig
    levels: tuple[str, ...] = ("res5", "res4", "res3", "res2")
    width: int = 256
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 100
    ids: int = 0
    panoptic: bool = True
    mask_widths: tuple[int, ...] | None = None
    frozen: bool = False
    loss: LossConfig = field(default_factory=LossConfig)
    score: float = 0.85
    smallest: int = 4

    @property
    def divisor(self) -> int:
        """Images are padded to a multiple of this, so that a pyramid's levels fit each other."""
        return 32 if self.backbone.kind == "fpn" else 1

    def build(self, categories: Categories) -> DETR:
        """A model with fresh weights."""
        from labkit.models.detr.detr import DETR

        return DETR(self, categories)
