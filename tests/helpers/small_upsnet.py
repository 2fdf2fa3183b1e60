"""The network of UPSNet's golden run: a whole ResNet-50 of few classes, weights by formula.

Both sides build the same thing from names and shapes alone, so that no weights need to be kept.
"""

import zlib
from dataclasses import replace

import numpy as np
import torch
from helpers.patchwork import patchwork

from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

THINGS, STUFF = 5, 4
SHORT, LONG, STUFF_AREA = 128, 200, 300
SIZES = {"plain": (90, 120), "small": (300, 150), "nothing": (100, 100), "crowd": (128, 150)}
"""Pictures by the name of their case; the sides are enlarged, made smaller, and kept."""

# Standard deviations with which untrained heads find something and disagree with one another.
SCALES = {
    "rpn.cls_score": 0.05,
    "rpn.bbox_pred": 0.02,
    "rcnn.cls_score": 0.06,
    "rcnn.bbox_pred": 0.02,
    "mask_score": 2.0,
    "conv_offset": 0.02,
    "fcn_head.score": 0.15,
}

LEVELS = (3.5, -2.2, 3.7, -2.2, 1.5, 1.0, 1.4, 6.5, 4.0)
"""Biases of the semantic head, stuff first, with which every class is the largest somewhere."""

CATEGORIES = Categories(Category(i + 1, f"class {i}", i < THINGS) for i in range(THINGS + STUFF))


def config():
    """labkit's configuration."""
    preset = PRESETS["upsnet_r50"]
    preprocessing = replace(preset.preprocessing, min_size=SHORT, max_size=LONG)
    panoptic = replace(preset.panoptic, min_stuff_area=STUFF_AREA)
    return replace(preset, preprocessing=preprocessing, panoptic=panoptic)


def weight(name, shape):
    """The value of a parameter or buffer, by its name in UPSNet's checkpoints."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    norm = ".bn" in name or "downsample.1" in name
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if norm and name.endswith("weight"):
        value = rng.uniform(0.6, 1.0, shape)
        if "conv1.bn1" in name and "layers" not in name:
            value /= 40  # images of 0 to 255 become maps of about unit variance
    elif name.endswith("running_var"):
        value = rng.uniform(0.9, 1.6, shape)
    elif name == "fcn_head.score.bias":
        value = np.array(LEVELS)
    elif len(shape) == 1:
        value = rng.normal(0, 0.02, shape)
    else:
        scale = (2 / np.prod([shape[0], *shape[2:]])) ** 0.5
        for part, fixed in SCALES.items():
            scale = fixed if part in name else scale
        value = rng.standard_normal(shape, np.float32) * np.float32(scale)
        if "fcn_head.score" in name:
            value -= value.mean(axis=1, keepdims=True)
    return torch.from_numpy(value.astype(np.float32))


def classifier(case):
    """The published names and values of the one layer that differs between the cases.

    Where nothing is found, the background has the upper hand; in the crowd, it never has.
    """
    weight_of, bias = "rcnn.cls_score.weight", "rcnn.cls_score.bias"
    values = {weight_of: weight(weight_of, (THINGS + 1, 1024)), bias: weight(bias, (THINGS + 1,))}
    if case == "nothing":
        values[bias][0] = 1000.0
    if case == "crowd":
        values[weight_of] *= 1.6
        values[bias][0] = -1000.0
    return values


def image(case):
    """The picture of a case, ``(3, H, W)`` uint8 RGB."""
    return patchwork(case, SIZES[case])
