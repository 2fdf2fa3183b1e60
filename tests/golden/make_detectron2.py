"""Write detectron2.npz: what Detectron2 returns for the detectors of small_detectors.py.

Run where Detectron2 is installed (`labkit install detectron2`), from the checkout:

    PYTHONPATH=tests python tests/golden/make_detectron2.py
"""

from pathlib import Path

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers import small_detectors as small

FILES = {
    "fpn": "InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    "c4": "InstanceSegmentation/mask_rcnn_R_50_C4_3x",
    "dc5": "InstanceSegmentation/mask_rcnn_R_50_DC5_3x",
    "panoptic": "PanopticSegmentation/panoptic_fpn_R_50_3x",
}
PROBABILITIES = 4  # detections whose mask probabilities are kept


def build(kind):
    cfg = model_zoo.get_config(f"COCO-{FILES[kind]}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.INPUT.MASK_FORMAT = "cpu", "", "bitmask"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = small.CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = small.HIDDEN
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = small.MASK_CHANNELS
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1 + small.STUFF
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = small.MERGE["score"]
    cfg.MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH = small.MERGE["overlap"]
    cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = small.MERGE["stuff_area"]
    cfg.TEST.DETECTIONS_PER_IMAGE = small.DETECTIONS
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = small.PROPOSALS
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 100
    model = build_model(cfg)
    state = {name: small.weight(name, value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def sample(seed):
    target = small.target(seed)
    instances = Instances(small.SIZE)
    instances.gt_boxes = Boxes(target["boxes"])
    instances.gt_classes = target["labels"]
    instances.gt_masks = BitMasks(target["masks"])
    height, width = small.SIZE
    # Detectron2's models take blue first.
    pixels = small.image(seed).flip(0).float()
    # Detectron2 numbers all things 0, then the stuff from 1 on.
    labels = target["semantic"]
    outputs = (labels - small.CLASSES + 1).clamp(min=0)
    outputs[labels == 255] = 255
    sample = {"image": pixels, "instances": instances, "sem_seg": outputs}
    return sample | {"height": height, "width": width}


def main():
    arrays = {}
    for kind in small.KINDS:
        model = build(kind).eval()
        height, width = small.OUTPUT_SIZE
        inputs = [{"image": small.image(0).flip(0).float(), "height": height, "width": width}]
        with torch.no_grad():
            inner = model.inference(inputs, do_postprocess=False)[0]
            outputs = model(inputs)[0]
        found = outputs["instances"]
        if kind == "panoptic":
            inner = inner[0]
            ids, segments = outputs["panoptic_seg"]
            things = sum(s["isthing"] for s in segments)
            assert things >= 3, segments
            assert things < len(segments) <= things + small.STUFF, segments
            arrays["panoptic_ids"] = ids.numpy().astype(np.uint8)
            # The label of segment i + 1, in labkit's numbers.
            arrays["panoptic_segments"] = np.array(
                [s["category_id"] + (not s["isthing"]) * (small.CLASSES - 1) for s in segments]
            )
            arrays["panoptic_semantic"] = outputs["sem_seg"].argmax(0).numpy().astype(np.uint8)
        assert 10 <= len(found) <= small.DETECTIONS, len(found)
        arrays[f"{kind}_boxes"] = found.pred_boxes.tensor.numpy()
        arrays[f"{kind}_scores"] = found.scores.numpy()
        arrays[f"{kind}_labels"] = found.pred_classes.numpy()
        arrays[f"{kind}_masks"] = np.packbits(found.pred_masks.numpy(), axis=-1)
        arrays[f"{kind}_probabilities"] = inner.pred_masks[:PROBABILITIES, 0].numpy()
        model.train()
        torch.manual_seed(0)
        with EventStorage():
            losses = model([sample(1), sample(2)])
        for name, value in losses.items():
            arrays[f"{kind}_{name}"] = value.detach().numpy()
        print(kind, len(found), {name: round(float(value), 4) for name, value in losses.items()})
    np.savez_compressed(Path(__file__).with_name("detectron2.npz"), **arrays)


if __name__ == "__main__":
    main()
