"""The network of DETR's golden run: a ResNet-50 and a small transformer, weights by formula.

Both sides build the same thing from names and shapes alone, so that no weights need to be kept.
"""

import zlib
from dataclasses import replace

import numpy as np
import torch
from helpers.patchwork import patchwork

from labkit.datasets.coco.categories import coco_panoptic
from labkit.models.presets import PRESETS
from labkit.structures import Panoptic, Segment

SCORE = 0.12
WIDTH, HEADS, HIDDEN, LAYERS, QUERIES = 128, 8, 256, 2, 14
SIZES = {"one": (96, 130), "small": (70, 64)}
"""Pictures by the name of their case, as the network gets them; and the sizes of the output."""
OUTPUTS = {"one": (120, 163), "small": (70, 64)}

CATEGORIES = coco_panoptic()

NO_OBJECT = 1.5
"""How much likelier "no object" is made."""

# Standard deviations with which untrained heads disagree with one another.
SCALES = {
    "class_embed": 3.0,
    "bbox_embed.layers.2": 0.1,
    "query_embed": 10.0,
    "bbox_attention": 0.2,
    "out_lay": 0.5,
}

ATTENTION = 300.0
"""How much more the mask head heeds attention, the only thing in which the masks of one picture
differ: without it they would be nearly the same, and rounding would choose between them."""


def config():
    """labkit's configuration."""
    return replace(
        PRESETS["detr_panoptic_r50"],
        d_model=WIDTH,
        num_heads=HEADS,
        dim_feedforward=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        num_queries=QUERIES,
        dropout=0.0,
        score_thresh=SCORE,
        mask_channels=(64, 32, 16, 8),
    )


def weight(name, shape):
    """The value of a parameter or buffer, by its name in DETR's checkpoints."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    norm = ".bn" in name or "downsample.1" in name
    if norm and name.endswith("weight"):
        value = rng.uniform(0.6, 1.0, shape)
    elif name.endswith("running_var"):
        value = rng.uniform(0.9, 1.6, shape)
    elif len(shape) == 1:
        value = rng.normal(0, 0.02, shape)
        if name.endswith("weight"):  # of a norm
            value += 1
    else:
        scale = (2 / np.prod([shape[0], *shape[2:]])) ** 0.5
        for part, fixed in SCALES.items():
            scale = fixed if part in name else scale
        value = rng.standard_normal(shape, np.float32) * np.float32(scale)
        if name == "mask_head.lay1.weight":
            value[:, -HEADS:] *= ATTENTION
    return torch.from_numpy(value.astype(np.float32))


def class_bias(classes, queries):
    """The bias with which the queries disagree: what they have in common is taken away.

    Numbers that are no category's id never win; "no object" sometimes does.

    Args:
        classes: ``(251, D)``, the weight of the layer.
        queries: ``(N, D)``, what it gets.
    """
    bias = -classes @ queries.mean(dim=0)
    known = [*(category.id for category in CATEGORIES), len(bias) - 1]
    unused = torch.ones(len(bias), dtype=torch.bool)
    unused[known] = False
    bias[unused] -= 1000
    bias[-1] += NO_OBJECT
    return bias


def image(case):
    """The picture of a case, ``(3, H, W)`` uint8 RGB."""
    return patchwork(case, SIZES[case])


def target(case):
    """Two things and two kinds of stuff."""
    height, width = SIZES[case]
    ids = torch.full((height, width), 3, dtype=torch.int32)
    ids[height // 2 :] = 4
    ids[10:40, 5:30] = 1
    ids[20:60, 25:50] = 2
    labels = [0, 17, 85, 120]
    panoptic = Panoptic(ids, [Segment(i, label) for i, label in enumerate(labels, 1)])
    masks = torch.stack([ids == 1, ids == 2])
    boxes = torch.tensor([[5.0, 10, 30, 40], [25, 20, 50, 60]])
    return {
        "image_id": case,
        "boxes": boxes,
        "labels": torch.tensor(labels[:2]),
        "masks": masks,
        "panoptic": panoptic,
    }
