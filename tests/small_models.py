"""Every preset's structure, small enough for a test."""

from dataclasses import replace
from unittest import mock

import torch

from labkit.models import resnet_bottleneck
from labkit.models.presets import PRESETS

STRUCTURES = [name for name in PRESETS if "r101" not in name or "dcn" in name]
"""The others, of 101 layers, differ in nothing else once they have few blocks."""

FEW_BLOCKS = {50: (1, 1, 1, 1), 101: (1, 1, 2, 1)}


def made(preset, categories):
    """A model with random weights: large ones with fewer blocks, neurons and proposals."""
    config = PRESETS[preset]
    if hasattr(config, "roi"):
        config = replace(
            config,
            rpn=replace(config.rpn, before_nms=(200, 100), after_nms=(50, 30)),
            roi=replace(config.roi, hidden=32, batch=32),
        )
    torch.manual_seed(0)
    with mock.patch.dict(resnet_bottleneck.BLOCKS, FEW_BLOCKS):
        return config.build(categories)
