"""Presets: what differs between the models; defaults stand in each configuration class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from labkit.models.backbones.backbone_config import (
    TINY_BLOCKS,
    TINY_WIDTHS,
    BackboneConfig,
    Network,
)
from labkit.models.backbones.vit import ViTConfig
from labkit.models.detr.criterion import LossConfig
from labkit.models.detr.detr import DETRConfig
from labkit.models.mask2former.criterion import MaskLossConfig
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.mask2former.mask2former import Mask2FormerConfig
from labkit.models.mask2former.masked_decoder import MaskedDecoderConfig
from labkit.models.mask2former.maskformer import MaskFormerConfig
from labkit.models.mask2former.pixel_decoder import PixelDecoderConfig
from labkit.models.mask2former.postprocess import InferenceConfig
from labkit.models.panoptic_fpn.panoptic_fpn import PanopticFPNConfig
from labkit.models.panoptic_fpn.semantic_head import SemanticFPNConfig
from labkit.models.preprocess import (
    DETECTRON2_PREPROCESSING,
    DETR_PREPROCESSING,
    EFFICIENTNET_LITE_PREPROCESSING,
    LABKIT_PREPROCESSING,
    MASK2FORMER_PREPROCESSING,
    UPSNET_PREPROCESSING,
)
from labkit.models.rcnn.mask_rcnn import MaskRCNNConfig
from labkit.models.rcnn.roi_heads import RoIHeadsConfig
from labkit.models.rcnn.roi_pooler import PoolerConfig
from labkit.models.rcnn.rpn import RPNConfig
from labkit.models.semantic.deeplab import DeepLabConfig
from labkit.models.semantic.fcn import FCNConfig
from labkit.models.upsnet.postprocess import PanopticConfig
from labkit.models.upsnet.semantic_head import DeformableHeadConfig
from labkit.models.upsnet.upsnet import UPSNetConfig
from labkit.structures import Categories
from labkit.system.unknown_names import unknown_name

PYRAMID = ("p2", "p3", "p4", "p5", "p6")
Config = (
    FCNConfig
    | DeepLabConfig
    | MaskRCNNConfig
    | PanopticFPNConfig
    | UPSNetConfig
    | DETRConfig
    | MaskFormerConfig
    | Mask2FormerConfig
    | EoMTConfig
)


def _r_fpn(network: Network) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        DETECTRON2_PREPROCESSING,
        BackboneConfig("fpn", network),
        RPNConfig(PYRAMID, anchor_sizes=((32,), (64,), (128,), (256,), (512,))),
        RoIHeadsConfig(PoolerConfig(PYRAMID[:4])),
    )


def _r_c4(network: Network) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        replace(DETECTRON2_PREPROCESSING, size_divisor=1),
        BackboneConfig("c4", network),
        _one_level_rpn("res4"),
        RoIHeadsConfig(PoolerConfig(("res4",)), mask_channels=(256,)),
    )


def _r_dc5(network: Network) -> MaskRCNNConfig:
    return MaskRCNNConfig(
        replace(DETECTRON2_PREPROCESSING, size_divisor=1),
        BackboneConfig("dc5", network),
        _one_level_rpn("res5"),
        RoIHeadsConfig(PoolerConfig(("res5",))),
    )


def _one_level_rpn(level: str) -> RPNConfig:
    # One level proposes what five do together, hence the larger numbers.
    sizes = ((32, 64, 128, 256, 512),)
    return RPNConfig((level,), sizes, pre_nms_top_n=(12000, 6000), post_nms_top_n=(2000, 1000))


def _panoptic_r(network: Network) -> PanopticFPNConfig:
    return panoptic_fpn_of(_r_fpn(network), SemanticFPNConfig(PYRAMID[:4]))


def _parts(detector: MaskRCNNConfig) -> dict[str, Any]:
    """A detector's configuration by part, for a network that adds a branch to it."""
    names = ("preprocessing", "backbone", "rpn", "roi_heads")
    return {name: getattr(detector, name) for name in names}


def panoptic_fpn_of(
    detector: MaskRCNNConfig, semantic: SemanticFPNConfig, **numbers: float
) -> PanopticFPNConfig:
    """The Panoptic FPN that a detector becomes with a semantic branch.

    Args:
        detector: the detector.
        semantic: configuration of the branch.
        numbers: weights of the losses and thresholds of the merge.
    """
    return PanopticFPNConfig(**_parts(detector), semantic_head=semantic, **numbers)  # type: ignore[arg-type]


def _upsnet_coco(network: Network, deformable: bool) -> UPSNetConfig:
    # Boxes from pixel to pixel, as Detectron had them in 2018.
    return UPSNetConfig(
        UPSNET_PREPROCESSING,
        BackboneConfig("fpn", network, deformable=deformable, context=True),
        RPNConfig(
            PYRAMID,
            anchor_sizes=((32,), (64,), (128,), (256,), (512,)),
            legacy_anchors=True,
            plus_one=True,
            rank_by_probability=True,
            post_nms_top_n=(2000, 1000),
            smooth_l1_beta=1 / 9,
        ),
        RoIHeadsConfig(
            PoolerConfig(PYRAMID[:4], epsilon=1e-6, aligned=False, sampling_ratio=2, plus_one=True),
            smooth_l1_beta=1.0,
            plus_one=True,
        ),
        semantic_head=DeformableHeadConfig(PYRAMID[:4]),
        panoptic=PanopticConfig(),
    )


def _upsnet_cityscapes(network: Network) -> UPSNetConfig:
    coco = _upsnet_coco(network, deformable=False)
    return replace(
        coco,
        preprocessing=replace(UPSNET_PREPROCESSING, min_size=1024, max_size=2048),
        backbone=replace(coco.backbone, context=False),
        semantic_head=replace(coco.semantic_head, widths=(128, 128)),
        panoptic=replace(coco.panoptic, min_stuff_area=2048),
        semantic_loss_weight=1.0,
        roi_loss_weight=0.0,
        panoptic_loss_weight=0.5,
    )


# The tiny detectors see 128-pixel images whose objects are 8 to 66 pixels large.
TINY_SIZES = (10.0, 20.0, 40.0, 64.0)
TINY_ROI = RoIHeadsConfig(
    PoolerConfig(("p2", "p3", "p4"), canonical_box_size=32.0, canonical_level=1, sampling_ratio=2),
    representation_size=128,
    mask_channels=(64, 64, 32),
    batch_size_per_image=128,
    mask_batch_size_per_image=10,
)
TINY_FPN = MaskRCNNConfig(
    LABKIT_PREPROCESSING,
    BackboneConfig("fpn", "tiny_resnet", pyramid=64),
    RPNConfig(
        PYRAMID[:4],
        anchor_sizes=tuple((s,) for s in TINY_SIZES),
        aspect_ratios=(0.7, 1.0, 1.4),
        pre_nms_top_n=(400, 200),
        post_nms_top_n=(200, 100),
        batch_size_per_image=128,
    ),
    TINY_ROI,
)


# What a laptop fine-tunes from ImageNet: photographs of 320 pixels, heads between the tiny and the
# published ones. A box of 96 of these pixels is one of 224 at the published size, 800.
LITE_FPN = MaskRCNNConfig(
    EFFICIENTNET_LITE_PREPROCESSING,
    BackboneConfig("fpn", "efficientnet_lite0", pyramid=64),
    RPNConfig(
        PYRAMID,
        anchor_sizes=((16,), (32,), (64,), (128,), (256,)),
        pre_nms_top_n=(500, 250),
        post_nms_top_n=(300, 200),
        batch_size_per_image=128,
    ),
    RoIHeadsConfig(
        PoolerConfig(PYRAMID[:4], canonical_box_size=96.0, sampling_ratio=2),
        representation_size=256,
        mask_channels=(64, 64, 64),
        batch_size_per_image=128,
        mask_batch_size_per_image=16,
    ),
)


def _tiny_one_level(kind: str, level: str) -> MaskRCNNConfig:
    rpn = replace(TINY_FPN.rpn, levels=(level,), anchor_sizes=(TINY_SIZES,))
    pooler = replace(TINY_ROI.pooler, levels=(level,), canonical_level=0)
    roi = replace(TINY_ROI, pooler=pooler)
    # C4 runs res5 on every proposal; DC5's one map is twice as wide as the pyramid's.
    if kind == "c4":
        roi = replace(roi, batch_size_per_image=64)
    else:
        roi = replace(roi, representation_size=96)
    return replace(
        TINY_FPN,
        preprocessing=replace(LABKIT_PREPROCESSING, size_divisor=1),
        backbone=BackboneConfig(kind, "tiny_resnet"),  # type: ignore[arg-type]
        rpn=rpn,
        roi_heads=roi,
    )


# The same share of a 128 x 128 image as 4096 pixels are of one of 480 x 640.
TINY_STUFF_AREA = 218


def _panoptic_tiny(
    detector: MaskRCNNConfig, levels: tuple[str, ...], size_divisor: int = 32
) -> PanopticFPNConfig:
    # All maps must reach the common stride 4 by doubling.
    detector = replace(
        detector, preprocessing=replace(LABKIT_PREPROCESSING, size_divisor=size_divisor)
    )
    return panoptic_fpn_of(
        detector,
        SemanticFPNConfig(levels, channels=64, merge_things=False),
        semantic_loss_weight=1.0,
        min_stuff_area=TINY_STUFF_AREA,
    )


def _detr(network: Network, dilated: bool, panoptic: bool) -> DETRConfig:
    kind: Any = "dc5" if dilated else "c5"
    return DETRConfig(
        DETR_PREPROCESSING,
        BackboneConfig(kind, network, stride_in_1x1=False, late_dilation=True),
        # Its outputs are COCO's ids: 90 things and, in a later list, stuff up to 200.
        num_ids=250 if panoptic else 91,
        panoptic=panoptic,
        mask_channels=(128, 64, 32, 16) if panoptic else None,
    )


# 128-pixel images have two to eight objects and up to four kinds of stuff. A coarse map of 4 x 4
# cells, as the last stage's is, would hold several objects in a cell, so that the transformer sees
# the pyramid's level of stride 8, and the mask head needs one finer map only. The paper's weight of
# "no object", 0.1, is for 100 queries of which nine in ten have none; of these 20 it is six in ten,
# and with 0.1 the network predicted too many segments: 8.7 in an image that has 7.7. Its scores are
# low: of the thresholds 0.2 to 0.6 those up to 0.3 gave the best maps of 100 training images.
DETR_TINY = DETRConfig(
    LABKIT_PREPROCESSING,
    BackboneConfig("fpn", "tiny_resnet", pyramid=64),
    levels=("p3", "p2"),
    d_model=128,
    dim_feedforward=256,
    dropout=0.0,
    encoder_layers=2,
    decoder_layers=3,
    num_queries=20,
    loss=LossConfig(eos_coef=0.5),
    score_thresh=0.3,
)


def _upsnet_tiny(detector: MaskRCNNConfig) -> UPSNetConfig:
    return UPSNetConfig(
        **_parts(detector),
        semantic_head=DeformableHeadConfig(PYRAMID[:4], widths=(64, 32), group_norm=True),
        panoptic=PanopticConfig(min_stuff_area=TINY_STUFF_AREA),
        semantic_loss_weight=1.0,
        # Larger weights delay the other heads: PQ 79 instead of 80 after 580 steps from random
        # weights.
        roi_loss_weight=0.1,
        panoptic_loss_weight=0.2,
    )


def _mask2former(network: Network, panoptic: bool = True) -> Mask2FormerConfig:
    return Mask2FormerConfig(
        MASK2FORMER_PREPROCESSING,
        BackboneConfig("c5", network, stride_in_1x1=False, frozen=0),
        panoptic=panoptic,
    )


# 128-pixel images have up to 12 segments. Mask logits of 32 x 32 have as many pixels as the loss
# has points. The pixel decoder stands on the pyramid, so that a trained one can be the beginning.
MASK2FORMER_TINY = Mask2FormerConfig(
    LABKIT_PREPROCESSING,
    BackboneConfig("fpn", "tiny_resnet", pyramid=64),
    PixelDecoderConfig(
        levels=("p5", "p4", "p3"),
        finest="p2",
        d_model=64,
        groups=8,
        encoder_layers=1,
        num_heads=4,
        dim_feedforward=128,
        stride_2=True,
    ),
    MaskedDecoderConfig(num_queries=40, layers=6, num_heads=4, dim_feedforward=256),
    loss=MaskLossConfig(num_points=1024),
    inference=InferenceConfig(score_thresh=0.5),
)

# The transformer sees the pyramid's level of stride 8 for the same reason as DETR_TINY's.
MASKFORMER_TINY = MaskFormerConfig(
    LABKIT_PREPROCESSING,
    BackboneConfig("fpn", "tiny_resnet", pyramid=64),
    levels=("p3", "p2"),
    d_model=64,
    groups=8,
    num_queries=24,
    num_heads=4,
    dim_feedforward=256,
    dropout=0.0,
    inference=InferenceConfig(score_thresh=0.5, inside_mask=False),
)

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
    "panoptic_fpn_tiny": _panoptic_tiny(TINY_FPN, PYRAMID[:4]),
    "panoptic_fpn_tiny_c4": _panoptic_tiny(_tiny_one_level("c4", "res4"), ("res4",), 16),
    "panoptic_fpn_tiny_dc5": _panoptic_tiny(_tiny_one_level("dc5", "res5"), ("res5",), 16),
    "upsnet_tiny": _upsnet_tiny(TINY_FPN),
    "detr_tiny": DETR_TINY,
    "detr_panoptic_tiny": replace(DETR_TINY, mask_channels=(64, 32)),
    "maskformer_tiny": MASKFORMER_TINY,
    "mask2former_tiny": MASK2FORMER_TINY,
    "mask_rcnn_lite": LITE_FPN,
    "panoptic_fpn_lite": panoptic_fpn_of(
        LITE_FPN, SemanticFPNConfig(PYRAMID[:4], channels=64), semantic_loss_weight=1.0
    ),
    "mask_rcnn_r50": _r_fpn("resnet50"),
    "mask_rcnn_r50_c4": _r_c4("resnet50"),
    "mask_rcnn_r50_dc5": _r_dc5("resnet50"),
    "mask_rcnn_r101": _r_fpn("resnet101"),
    "mask_rcnn_r101_c4": _r_c4("resnet101"),
    "mask_rcnn_r101_dc5": _r_dc5("resnet101"),
    "panoptic_fpn_r50": _panoptic_r("resnet50"),
    "panoptic_fpn_r101": _panoptic_r("resnet101"),
    "upsnet_r50": _upsnet_coco("resnet50", deformable=False),
    "upsnet_r101_dcn": _upsnet_coco("resnet101", deformable=True),
    "upsnet_r50_cityscapes": _upsnet_cityscapes("resnet50"),
    "upsnet_r101_cityscapes": _upsnet_cityscapes("resnet101"),
    "detr_r50": _detr("resnet50", dilated=False, panoptic=False),
    "detr_r50_dc5": _detr("resnet50", dilated=True, panoptic=False),
    "detr_r101": _detr("resnet101", dilated=False, panoptic=False),
    "detr_r101_dc5": _detr("resnet101", dilated=True, panoptic=False),
    "detr_panoptic_r50": _detr("resnet50", dilated=False, panoptic=True),
    "detr_panoptic_r50_dc5": _detr("resnet50", dilated=True, panoptic=True),
    "detr_panoptic_r101": _detr("resnet101", dilated=False, panoptic=True),
    "mask2former_r50": _mask2former("resnet50"),
    "mask2former_r101": _mask2former("resnet101"),
    "mask2former_r50_instance": _mask2former("resnet50", panoptic=False),
    "eomt_small_640": EoMTConfig(ViTConfig(384, 12, 6), query_blocks=3),
    "eomt_base_640": EoMTConfig(ViTConfig(768, 12, 12), query_blocks=3),
    "eomt_large_640": EoMTConfig(ViTConfig(1024, 24, 16), query_blocks=4),
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
        raise unknown_name("preset", preset, PRESETS)
    return PRESETS[preset].build(categories)
