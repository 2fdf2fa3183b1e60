"""The networks of the golden run of mask classification: small, weights by formula.

Both sides build the same thing from names and shapes alone, so that no weights need to be kept.
"""

import zlib
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from helpers.patchwork import patchwork

from labkit.models.backbones import resnet
from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.backbones.vit import ViTConfig
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.mask2former.masked_decoder import MaskedDecoderConfig
from labkit.models.mask2former.maskformer import MaskFormerConfig
from labkit.models.mask2former.pixel_decoder import PixelDecoderConfig
from labkit.models.preprocess import EOMT_PREPROCESSING, MASK2FORMER_PREPROCESSING, preprocess
from labkit.models.presets import PRESETS
from labkit.models.targets import Segments
from labkit.structures import Categories, Category

SIDE, QUERIES, WIDTH, SEED = 64, 6, 64, 7
CATEGORIES = Categories(Category(i + 1, f"c{i}", isthing=i < 5) for i in range(8))

CONFIGS = {
    "maskformer": MaskFormerConfig(
        MASK2FORMER_PREPROCESSING,
        BackboneConfig("c5", "resnet50", stride_in_1x1=False),
        d_model=WIDTH,
        num_queries=QUERIES,
        decoder_layers=3,
        dim_feedforward=128,
        dropout=0.0,
    ),
    "mask2former": replace(
        PRESETS["mask2former_r50"],
        pixel_decoder=PixelDecoderConfig(d_model=WIDTH, encoder_layers=2, dim_feedforward=128),
        decoder=MaskedDecoderConfig(num_queries=QUERIES, layers=3, dim_feedforward=128),
    ),
    "eomt": EoMTConfig(
        ViTConfig(WIDTH, 4, 2, image_size=SIDE),
        query_blocks=2,
        num_queries=QUERIES,
        preprocessing=replace(EOMT_PREPROCESSING, max_size=SIDE, size_divisor=SIDE),
    ),
}
SCALES = {"query": 1.0, "q.weight": 1.0, "level_embed": 1.0, "sampling_offsets": 0.3}
"""Standard deviations of embeddings and of what shall differ from place to place."""


def built(name):
    """A model with fresh weights."""
    with mock.patch.dict(resnet.BLOCKS, {50: (1, 1, 1, 1)}):
        return CONFIGS[name].build(CATEGORIES).eval()


def weights(name, model):
    """The weights of the formula by labkit's names."""
    return {key: weight(name, key, value) for key, value in model.state_dict().items()}


def made(name):
    """A model with the weights of the formula."""
    model = built(name)
    model.load_state_dict(weights(name, model))
    return model


def weight(network, key, like):
    """The value of a parameter or buffer, by labkit's name and its shape."""
    rng = np.random.default_rng(zlib.crc32(f"{network} {key}".encode()))
    shape = tuple(like.shape)
    if key == "attn_mask_probs":
        value = np.ones(shape)
    elif key.endswith(("running_var", "gamma")):
        value = rng.uniform(0.6, 1.4, shape)
    elif len(shape) == 1:
        value = rng.normal(0, 0.1, shape)
        if key.endswith("weight"):  # of a norm
            value += 1
    else:
        scale = (2 / np.prod(shape[1:])) ** 0.5
        for part, fixed in SCALES.items():
            scale = fixed if part in key else scale
        value = rng.standard_normal(shape) * scale
    return torch.from_numpy(value.astype(np.float32))


def images(name):
    """Two pictures as the network takes them, ``(2, 3, 64, 64)``."""
    pictures = [patchwork(f"{name} {i}", (SIDE, SIDE)) for i in range(2)]
    return preprocess(pictures, replace(CONFIGS[name].preprocessing, resize=None)).tensor


def segments():
    """Three segments of one picture and five of the other: overlapping rectangles."""
    found = []
    for image, count in enumerate((3, 5)):
        masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
        for i, mask in enumerate(masks):
            mask[8 * i : 8 * i + 24, 5 * (i + image) : 5 * (i + image) + 30] = True
        found.append(Segments(image, torch.arange(count) + image, masks))
    return found
