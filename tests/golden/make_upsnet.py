"""Write upsnet.npz: what the original UPSNet returns for the network of small_upsnet.py.

Run with a checkout of https://github.com/uber-research/UPSNet (its licence is non-commercial; none
of it is kept here), where torch, torchvision, OpenCV, PyYAML, easydict, SciPy and networkx are
installed; a GPU or its compiled operators are not needed:

    PYTHONPATH=tests python tests/golden/make_upsnet.py PATH/TO/UPSNet

Its operators are replaced by torchvision's, which compute the same; what it does on a GPU is done
on the CPU.
"""

import sys
import types
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
import yaml
from helpers import small_upsnet as small

ORIGINAL = Path(sys.argv[1])
EXPERIMENT = "upsnet_resnet50_coco_4gpu.yaml"


def module(name, **content):
    made = types.ModuleType(name)
    made.__dict__.update(content)
    sys.modules[name] = made


class DeformConvFunction:
    @staticmethod
    def apply(
        data, offset, weight, bias, _inputs, _outputs, _kernel, stride, padding, dilation, *_
    ):
        pair = [(v, v) if isinstance(v, int) else tuple(v) for v in (stride, padding, dilation)]
        return torchvision.ops.deform_conv2d(data, offset, weight, bias, *pair)


class RoIAlignFunction:
    def __init__(self, height, width, scale, ratio=2):
        self.arguments = ((height, width), scale, ratio, False)

    def __call__(self, features, rois):
        return torchvision.ops.roi_align(features, rois, *self.arguments)


def nms(dets, threshold, *_):
    boxes = torch.from_numpy(np.asarray(dets[:, :4], np.float32)) + torch.tensor([0.0, 0, 1, 1])
    scores = torch.from_numpy(np.asarray(dets[:, 4], np.float32))
    return torchvision.ops.nms(boxes, scores, threshold).tolist()


def overlaps(a, b):
    shift = torch.tensor([0.0, 0, 1, 1])
    return torchvision.ops.box_iou(torch.tensor(a) + shift, torch.tensor(b) + shift).numpy()


def prepare():
    """Stand-ins for what is compiled and for what only a GPU has."""
    sys.path[:0] = [str(ORIGINAL), str(ORIGINAL / "lib")]
    module("upsnet.operators.functions.deform_conv", DeformConvFunction=DeformConvFunction)
    module("upsnet.operators.functions.roialign", RoIAlignFunction=RoIAlignFunction)
    module("upsnet.nms.cpu_nms", cpu_nms=nms, cpu_soft_nms=None)
    module("upsnet.nms.gpu_nms", gpu_nms=nms)
    module("upsnet.bbox.bbox", bbox_overlaps=overlaps)
    module("upsnet.rpn.anchors", anchors_cython=None)
    for name in ("pin_memory", "cuda"):
        setattr(torch.Tensor, name, lambda self, *_, **__: self)
    torch.Tensor.get_device = lambda self: "cpu"
    device = torch.device
    torch.device = lambda kind, *_: device("cpu")
    # Functions of the kind that torch no longer calls.
    torch.autograd.Function.__call__ = lambda self, *inputs: self.forward(*inputs)
    import collections
    import collections.abc

    collections.Sequence = collections.abc.Sequence
    np.__dict__.update(float=float, int=int)  # names that NumPy no longer has


def main():
    prepare()
    from upsnet.config.config import config

    published = yaml.safe_load((ORIGINAL / "upsnet/experiments" / EXPERIMENT).read_text())
    for part, values in published.items():
        if isinstance(values, dict):
            config[part].update(values)
    from upsnet.dataset.base_dataset import BaseDataset
    from upsnet.models.resnet_upsnet import resnet_50_upsnet

    config.dataset.num_classes = small.THINGS + 1
    config.dataset.num_seg_classes = small.THINGS + small.STUFF
    model = resnet_50_upsnet().eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    base = {name: small.weight(name, shape) for name, shape in shapes.items()}
    arrays = {}
    for case in small.SIZES:
        torch.nn.Module.load_state_dict(model, {**base, **small.classifier(case)})
        pixels = small.image(case).permute(1, 2, 0).numpy()[:, :, ::-1]  # blue first
        (resized,), (scale,) = BaseDataset.prep_im_for_blob(
            None, pixels, config.network.pixel_means, [small.SHORT], small.LONG
        )
        blob = BaseDataset.im_list_to_blob(None, [resized.transpose(2, 0, 1)])
        height, width = resized.shape[:2]
        info = np.array([[height, width, scale]], np.float32)
        data = {"data": torch.from_numpy(blob).float(), "im_info": info}
        with torch.no_grad():
            found = {name: value.numpy() for name, value in model(data).items()}
        maps = []
        for name in ("fcn_outputs", "panoptic_outputs"):
            whole = found[name].squeeze(0).astype("uint8")[:height, :width]
            nearest = {"fx": 1 / scale, "fy": 1 / scale, "interpolation": cv2.INTER_NEAREST}
            maps.append(cv2.resize(whole, None, None, **nearest))
        classes = found["panoptic_cls_inds"]
        settled = BaseDataset.get_unified_pan_result(
            None, maps[:1], maps[1:], [classes], small.STUFF_AREA
        )[0]
        scores, labels = found["cls_probs"], found["cls_inds"]
        print(case, blob.shape, len(scores), len(np.unique(scores)), scores.min(), scores.max())
        print("objects", classes, np.unique(maps[1], return_counts=True))
        print(np.unique(settled[..., 0], return_counts=True))
        arrays |= {
            f"{case}_boxes": found["pred_boxes"][:, 1:] / scale,
            f"{case}_scores": scores,
            f"{case}_labels": labels,
            f"{case}_objects": classes,
            f"{case}_semantic": maps[0],
            f"{case}_winners": maps[1],
            f"{case}_classes": settled[..., 0],
            f"{case}_numbers": settled[..., 1],
        }
    np.savez_compressed(Path(__file__).with_name("upsnet.npz"), **arrays)


if __name__ == "__main__":
    main()
