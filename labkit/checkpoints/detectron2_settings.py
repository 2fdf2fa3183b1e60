"""Settings of a Detectron2 ``config.yaml`` that concern a model, and what they are in labkit."""

from __future__ import annotations

from typing import Any

PYRAMID = ["p2", "p3", "p4", "p5"]
STAGES = ["res2", "res3", "res4", "res5"]

# Settings that become part of labkit's configuration, with Detectron2's defaults.
DEFAULTS: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1.0,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": 1.0,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": 0.5,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 4096,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.5,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "DATASETS.TRAIN": [],
}

# Settings that are one field of labkit's configuration, by part; read and written alike.
FIELDS: dict[str, dict[str, str]] = {
    "preprocessing": {
        "INPUT.MIN_SIZE_TEST": "min_size",
        "INPUT.MAX_SIZE_TEST": "max_size",
    },
    "backbone": {
        "MODEL.BACKBONE.FREEZE_AT": "frozen",
        "MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1",
        "MODEL.FPN.OUT_CHANNELS": "pyramid",
    },
    "rpn": {
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "batch_size_per_image",
        "MODEL.RPN.SMOOTH_L1_BETA": "smooth_l1_beta",
        "MODEL.RPN.NMS_THRESH": "nms_thresh",
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": "min_size",
    },
    "roi_heads": {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "batch_size_per_image",
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": "positive_fraction",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score_thresh",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms_thresh",
        "MODEL.ROI_BOX_HEAD.FC_DIM": "representation_size",
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": "smooth_l1_beta",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "mask_resolution",
        "TEST.DETECTIONS_PER_IMAGE": "detections_per_img",
    },
}
PANOPTIC_FIELDS = {
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": "semantic_loss_weight",
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": "instance_loss_weight",
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": "overlap_thresh",
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": "min_stuff_area",
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": "score_thresh",
}
COUNTS = {"MODEL.ROI_HEADS.NUM_CLASSES": 1, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2}
"""Numbers of classes, and the least; the semantic head's first class is all things."""

# Settings that change the numbers and have one value in labkit.
FIXED: dict[str, Any] = {
    "MODEL.KEYPOINT_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "MODEL.RPN.CONV_DIMS": [-1],
    "MODEL.RPN.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": PYRAMID,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
}
PHASES = ("TRAIN", "TEST")
INPUT_LEVELS = {"MODEL.FPN.IN_FEATURES": STAGES}
"""Fixed in a pyramid; without one Detectron2's default is empty."""
