"""Every preset's structure, small enough for a test."""

from dataclasses import replace
from unittest import mock

import torch

from labkit.models.backbones import resnet
from labkit.models.detr.config import DETRConfig
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
    """The same parts, narrow."""
    config = replace(config, backbone=replace(config.backbone, pyramid=32))
    if isinstance(config, DETRConfig):
        masks = None if config.mask_widths is None else (16, 16, 8, 8)
        layers = {"encoder_layers": 1, "decoder_layers": 2, "queries": 20}
        return replace(config, width=32, hidden=32, mask_widths=masks, **layers)
    roi = replace(config.roi, hidden=32, batch=32, mask_widths=(16,) * len(config.roi.mask_widths))
    rpn = replace(config.rpn, before_nms=(200, 100), after_nms=(50, 30))
    config = replace(config, rpn=rpn, roi=roi)
    semantic = getattr(config, "semantic", None)
    if hasattr(semantic, "widths"):
        config = replace(config, semantic=replace(semantic, widths=(16,) * len(semantic.widths)))
    return config
