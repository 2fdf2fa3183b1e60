"""Every preset's structure, small enough for a test."""

from dataclasses import replace
from unittest import mock

import torch

from labkit.models.backbones import resnet
from labkit.models.detr.detr import DETRConfig
from labkit.models.presets import PRESETS

STRUCTURES = [name for name in PRESETS if "r101" not in name or "dcn" in name]
"""The others, of 101 layers, differ in nothing else once they have few blocks."""

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
    preprocessing = replace(config.preprocessing, resize=None)
    backbone = replace(config.backbone, pyramid=32)
    config = replace(config, preprocessing=preprocessing, backbone=backbone)
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
