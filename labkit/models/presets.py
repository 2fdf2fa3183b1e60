"""The models by name: every number of every model that labkit builds is in this file."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from labkit.errors import LabkitError
from labkit.models.backbones import TINY_BLOCKS, TINY_WIDTHS, BackboneConfig
from labkit.models.deeplab import DeepLabConfig
from labkit.models.fcn import FCNConfig
from labkit.models.mask_rcnn_config import DETECTRON2, LABKIT, MaskRCNNConfig
from labkit.models.pooler import PoolerConfig
from labkit.models.roi_heads import RoIConfig
from labkit.models.rpn import RPNConfig
from labkit.structures import Categories

PYRAMID = ("p2", "p3", "p4", "p5", "p6")
Config = FCNConfig | DeepLabConfig | MaskRCNNConfig


def _r_fpn(depth: int) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        DETECTRON2,
        BackboneConfig("fpn", depth),
        RPNConfig(PYRAMID, sizes=((32,), (64,), (128,), (256,), (512,))),
        RoIConfig(PoolerConfig(PYRAMID[:4])),
    )


def _r_c4(depth: int) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        DETECTRON2,
        BackboneConfig("c4", depth),
        _one_level_rpn("res4"),
        RoIConfig(PoolerConfig(("res4",)), mask_widths=(256,)),
    )


def _r_dc5(depth: int) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        DETECTRON2,
        BackboneConfig("dc5", depth),
        _one_level_rpn("res5"),
        RoIConfig(PoolerConfig(("res5",))),
    )


def _one_level_rpn(level: str) -> RPNConfig:
    # One level proposes what five do together, hence the larger numbers.
    sizes = ((32, 64, 128, 256, 512),)
    return RPNConfig((level,), sizes, before_nms=(12000, 6000), after_nms=(2000, 1000))


# The tiny detectors see 128-pixel images whose objects are 8 to 66 pixels large.
TINY_SIZES = (10.0, 20.0, 40.0, 64.0)
TINY_ROI = RoIConfig(
    PoolerConfig(("p2", "p3", "p4"), canonical=32.0, canonical_level=1, sampling_ratio=2),
    hidden=128,
    mask_widths=(64, 64, 64),
    batch=64,
)
TINY_FPN = MaskRCNNConfig(
    LABKIT,
    BackboneConfig("fpn", 0, pyramid=64),
    RPNConfig(
        PYRAMID[:4],
        sizes=tuple((s,) for s in TINY_SIZES),
        ratios=(0.7, 1.0, 1.4),
        before_nms=(400, 200),
        after_nms=(200, 100),
        batch=128,
    ),
    TINY_ROI,
)


def _tiny_one_level(kind: str, level: str) -> MaskRCNNConfig:
    rpn = replace(TINY_FPN.rpn, levels=(level,), sizes=(TINY_SIZES,))
    pooler = replace(TINY_ROI.pooler, levels=(level,), canonical_level=0)
    roi = replace(TINY_ROI, pooler=pooler)
    return replace(TINY_FPN, backbone=BackboneConfig(kind, 0), rpn=rpn, roi=roi)  # type: ignore[arg-type]


PRESETS: dict[str, Config] = {
    "fcn32_tiny": FCNConfig(TINY_WIDTHS, TINY_BLOCKS, stride=32),
    "fcn8_tiny": FCNConfig(TINY_WIDTHS, TINY_BLOCKS, stride=8),
    # Rates 1, 2, 4 at stride 8 reach 8, 16 and 32 pixels to either side: a quarter of a 128-pixel
    # image, as the paper's 12, 24, 36 are of its 513-pixel crops.
    "deeplab_tiny": DeepLabConfig(
        TINY_WIDTHS, TINY_BLOCKS, output_stride=8, rates=(1, 2, 4), channels=64, skip_channels=32
    ),
    "mask_rcnn_tiny": TINY_FPN,
    "mask_rcnn_tiny_c4": _tiny_one_level("c4", "res4"),
    "mask_rcnn_tiny_dc5": _tiny_one_level("dc5", "res5"),
    "mask_rcnn_r50": _r_fpn(50),
    "mask_rcnn_r50_c4": _r_c4(50),
    "mask_rcnn_r50_dc5": _r_dc5(50),
    "mask_rcnn_r101": _r_fpn(101),
    "mask_rcnn_r101_c4": _r_c4(101),
    "mask_rcnn_r101_dc5": _r_dc5(101),
}


def build(preset: str, categories: Categories) -> nn.Module:
    """A model with fresh weights (seed torch first to make them repeatable).

    Args:
        preset: a name in ``PRESETS``.
        categories: of the data set; the number of classes follows.

    Raises:
        LabkitError: unknown preset.
    """
    if preset not in PRESETS:
        raise LabkitError(f"preset: {preset!r} is not one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset].build(categories)
