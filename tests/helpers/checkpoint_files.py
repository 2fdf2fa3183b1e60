"""Files as Detectron2 writes them: a configuration, and a checkpoint beside it."""

import torch
import yaml

from labkit.checkpoints.detectron2 import to_detectron2
from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

PYRAMID = ["p2", "p3", "p4", "p5"]
STAGES = ["res2", "res3", "res4", "res5"]
FPN = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"OUT_FEATURES": STAGES, "DEPTH": 50},
        "FPN": {"IN_FEATURES": STAGES},
        "ANCHOR_GENERATOR": {
            "SIZES": [[32], [64], [128], [256], [512]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        "RPN": {
            "IN_FEATURES": [*PYRAMID, "p6"],
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000,
            "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": PYRAMID},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "POOLER_RESOLUTION": 14,
        },
    },
    "VERSION": 2,
}


def write_config(folder, *changes, base=FPN):
    """Write ``config.yaml`` with changes such as ``("MODEL.RESNETS.DEPTH", 101)``."""
    content = yaml.safe_load(yaml.safe_dump(base))
    for name, value in changes:
        *above, last = name.split(".")
        part = content
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write_detectron2(folder, num_classes):
    """Write a Mask R-CNN R50-FPN with random weights; return the checkpoint."""
    torch.manual_seed(0)
    classes = Categories(Category(i, f"c{i}", True) for i in range(1, num_classes + 1))
    model = PRESETS["mask_rcnn_r50"].build(classes)
    path = folder / "model_final.pth"
    torch.save({"model": to_detectron2(model.state_dict()), "iteration": 299}, path)
    write_config(folder, ("MODEL.ROI_HEADS.NUM_CLASSES", num_classes))
    return path
