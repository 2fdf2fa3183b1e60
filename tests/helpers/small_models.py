"""Every preset's structure, small enough for a test."""

from dataclasses import replace
from unittest import mock

import torch

from labkit.models.backbones import resnet
from labkit.models.backbones.vit import ViTConfig
from labkit.models.detr.detr import DETRConfig
from labkit.models.mask2former.criterion import MaskLossConfig
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.mask2former.mask2former import Mask2FormerConfig
from labkit.models.presets import PRESETS

SAME = ("eomt_base_640", "eomt_large_640")
STRUCTURES = [
    name for name in PRESETS if name not in SAME and ("r101" not in name or "dcn" in name)
]
"""The others, of 101 layers or wider, differ in nothing else once they are small."""

FEW_POINTS = MaskLossConfig(num_points=128)
FEW_BLOCKS = {50: (1, 1, 1, 1), 101: (1, 1, 2, 1)}


def made(preset, categories):
    """A model with random weights: large ones with fewer blocks, channels and proposals."""
    config = PRESETS[preset]
    if "tiny" not in preset:
        config = small(config)
    torch.manual_seed(0)
    with mock.patch.dict(resnet.BLOCKS, FEW_BLOCKS):
        return config.build(categories)


def small(config):
    """The same parts, narrow; images are not enlarged."""
    if isinstance(config, EoMTConfig):
        square = replace(config.preprocessing, max_size=128, size_divisor=128)
        return EoMTConfig(ViTConfig(32, 3, 2, image_size=128), 2, 20, square, FEW_POINTS)
    preprocessing = replace(config.preprocessing, resize=None)
    backbone = replace(config.backbone, pyramid=32)
    config = replace(config, preprocessing=preprocessing, backbone=backbone)
    if isinstance(config, Mask2FormerConfig):
        pixel_decoder = replace(
            config.pixel_decoder, d_model=32, groups=8, encoder_layers=1, dim_feedforward=32
        )
        decoder = replace(config.decoder, num_queries=20, layers=3, dim_feedforward=32)
        return replace(config, pixel_decoder=pixel_decoder, decoder=decoder, loss=FEW_POINTS)
    if isinstance(config, DETRConfig):
        masks = None if config.mask_channels is None else (16, 16, 8, 8)
        layers = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 20}
        return replace(config, d_model=32, dim_feedforward=32, mask_channels=masks, **layers)
    roi_heads = replace(
        config.roi_heads,
        representation_size=32,
        batch_size_per_image=32,
        mask_channels=(16,) * len(config.roi_heads.mask_channels),
    )
    rpn = replace(config.rpn, pre_nms_top_n=(200, 100), post_nms_top_n=(50, 30))
    config = replace(config, rpn=rpn, roi_heads=roi_heads)
    head = getattr(config, "semantic_head", None)
    if hasattr(head, "widths"):
        config = replace(config, semantic_head=replace(head, widths=(16,) * len(head.widths)))
    return config
