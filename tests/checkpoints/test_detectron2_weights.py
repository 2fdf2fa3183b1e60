"""Detectron2's files: its names onto labkit's, all of them or nothing."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit.checkpoints import detectron2
from labkit.checkpoints.detectron2 import load, load_backbone, to_detectron2
from labkit.datasets.coco.categories import coco_things
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models import PRESETS

CATEGORIES = Shapes("val", num=1).categories


def build(preset, categories=CATEGORIES, device="cpu", **changes):
    with torch.device(device):
        return replace(PRESETS[preset], **changes).build(categories)


def arrays(model):
    return {name: v.numpy() for name, v in to_detectron2(model.state_dict()).items()}


def same(model, state):
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def copy(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.fixture
def tiny():
    """A model, the file's arrays of another one, and a function that pickles them."""
    torch.manual_seed(0)
    return build("mask_rcnn_tiny"), build("mask_rcnn_tiny")


@pytest.fixture
def write(tmp_path):
    def write(weights, **more):
        path = tmp_path / "weights.pkl"
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "Zoo", **more}, 2))
        return path

    return write


# Names


@pytest.mark.parametrize(
    ("preset", "entries"),
    [
        ("mask_rcnn_r50", 307),
        ("mask_rcnn_r101", 562),
        ("mask_rcnn_r50_c4", 279),
        ("mask_rcnn_r101_c4", 534),
        ("mask_rcnn_r50_dc5", 291),
        ("mask_rcnn_r101_dc5", 546),
    ],
)
def test_as_many_entries_as_detectron2(preset, entries):
    state = build(preset, coco_things(), "meta").state_dict()
    names = to_detectron2(state)
    assert len(state) == len(names) == entries


FPN = {
    "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7),
    "backbone.bottom_up.stem.conv1.norm.running_var": (64,),
    "backbone.bottom_up.res2.0.shortcut.weight": (256, 64, 1, 1),
    "backbone.bottom_up.res5.2.conv2.norm.bias": (512,),
    "backbone.fpn_lateral4.weight": (256, 1024, 1, 1),
    "backbone.fpn_output2.bias": (256,),
    "proposal_generator.rpn_head.conv.weight": (256, 256, 3, 3),
    "proposal_generator.rpn_head.objectness_logits.bias": (3,),
    "proposal_generator.rpn_head.anchor_deltas.weight": (12, 256, 1, 1),
    "roi_heads.box_head.fc1.weight": (1024, 12544),
    "roi_heads.box_head.fc2.bias": (1024,),
    "roi_heads.box_predictor.cls_score.weight": (81, 1024),
    "roi_heads.box_predictor.bbox_pred.weight": (320, 1024),
    "roi_heads.mask_head.mask_fcn1.weight": (256, 256, 3, 3),
    "roi_heads.mask_head.mask_fcn4.bias": (256,),
    "roi_heads.mask_head.deconv.weight": (256, 256, 2, 2),
    "roi_heads.mask_head.predictor.weight": (80, 256, 1, 1),
}
C4 = {
    "backbone.stem.conv1.weight": (64, 3, 7, 7),
    "backbone.res4.5.conv3.norm.weight": (1024,),
    "proposal_generator.rpn_head.conv.weight": (1024, 1024, 3, 3),
    "proposal_generator.rpn_head.anchor_deltas.bias": (60,),
    "roi_heads.res5.0.shortcut.norm.running_mean": (2048,),
    "roi_heads.res5.2.conv2.weight": (512, 512, 3, 3),
    "roi_heads.box_predictor.cls_score.weight": (81, 2048),
    "roi_heads.mask_head.deconv.weight": (2048, 256, 2, 2),
    "roi_heads.mask_head.predictor.bias": (80,),
}
DC5 = {
    "backbone.res5.2.conv3.weight": (2048, 512, 1, 1),
    "proposal_generator.rpn_head.objectness_logits.weight": (15, 2048, 1, 1),
    "roi_heads.box_head.fc1.weight": (1024, 100352),
    "roi_heads.mask_head.mask_fcn1.weight": (256, 2048, 3, 3),
}


@pytest.mark.parametrize(
    ("preset", "known"),
    [("mask_rcnn_r50", FPN), ("mask_rcnn_r50_c4", C4), ("mask_rcnn_r50_dc5", DC5)],
)
def test_names_and_shapes_of_detectron2(preset, known):
    state = to_detectron2(build(preset, coco_things(), "meta").state_dict())
    assert {name: tuple(state[name].shape) for name in known} == known


@pytest.mark.parametrize("kind", ["FPN", "C4", "DC5"])
@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.usefixtures("detectron2")
def test_equal_to_detectron2_itself(depth, kind):
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    config = model_zoo.get_config(f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_{kind}_3x.yaml")
    config.MODEL.DEVICE = "meta"
    theirs = build_model(config).state_dict()
    preset = f"mask_rcnn_r{depth}" + ("" if kind == "FPN" else f"_{kind.lower()}")
    ours = to_detectron2(build(preset, coco_things(), "meta").state_dict())
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("preset", "changes", "name"),
    [
        ("mask_rcnn_r50", {}, "Mask R-CNN R50-FPN"),
        ("mask_rcnn_r101_c4", {}, "Mask R-CNN R101-C4"),
        ("mask_rcnn_r50_dc5", {"masks": False}, "Faster R-CNN R50-DC5"),
    ],
)
def test_what_a_file_looks_like(preset, changes, name):
    state = to_detectron2(build(preset, device="meta", **changes).state_dict())
    assert detectron2.architecture(state) == name
    with_semantic = [*state, "sem_seg_head.predictor.weight"]
    assert detectron2.architecture(with_semantic).startswith("Panoptic FPN R")


# What loads


EXTRA = {
    "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
    "proposal_generator.anchor_generator.cell_anchors.4": np.zeros((3, 4), np.float32),
    "pixel_mean": np.zeros((3, 1, 1), np.float32),
    "pixel_std": np.ones((3, 1, 1), np.float32),
}


def test_a_published_file_loads(tiny, write):
    model, other = tiny
    load(write({**arrays(other), **EXTRA}), model)
    assert same(model, other.state_dict())


@pytest.mark.parametrize("preset", ["mask_rcnn_tiny_c4", "mask_rcnn_tiny_dc5"])
def test_other_backbones_load(preset, write):
    model, other = build(preset), build(preset)
    load(write(arrays(other)), model)
    assert same(model, other.state_dict())


def test_what_training_wrote_loads(tiny, tmp_path):
    model, other = tiny
    state = {f"module.{k}": v.half() for k, v in to_detectron2(other.state_dict()).items()}
    path = tmp_path / "model_0000999.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 999}, path)
    load(path, model)
    assert all(v.dtype == torch.float32 for v in model.state_dict().values())
    assert same(model, {k: v.half().float() for k, v in other.state_dict().items()})
    path.rename(tmp_path / "renamed.pkl")  # the content decides
    load(tmp_path / "renamed.pkl", build("mask_rcnn_tiny"))


# What is refused


def test_every_difference_is_listed_and_nothing_loaded(tiny, write):
    model, other = tiny
    before, weights = copy(model), arrays(other)
    weights["roi_heads.box_predictor.cls_score.bias"] = np.zeros(81, np.float32)
    weights["proposal_generator.rpn_head.conv.b"] = weights.pop(
        "proposal_generator.rpn_head.conv.bias"
    )
    del weights["roi_heads.mask_head.deconv.weight"]
    weights["sem_seg_head.predictor.bias"] = np.zeros(54, np.float32)
    weights["roi_heads.box_head.fc1.bias"] = np.zeros(128, np.int64)
    weights["roi_heads.box_head.fc2.bias"] = "text"
    with pytest.raises(LabkitError) as refusal:
        load(write(weights), model)
    total = len(before)
    first, *lines = str(refusal.value).splitlines()
    assert "weights.pkl: these are not the weights of this model; nothing was loaded." in first
    assert first.endswith("looks like Panoptic FPN tiny-FPN, the model Mask R-CNN tiny-FPN.")
    assert lines == [
        f"missing from the file (2 of {total}):",
        "  proposal_generator.rpn_head.conv.bias",
        "  roi_heads.mask_head.deconv.weight",
        "unknown to the model (2):",
        "  proposal_generator.rpn_head.conv.b",
        "  sem_seg_head.predictor.bias",
        "of another shape or type (3):",
        "  roi_heads.box_predictor.cls_score.bias: the file has (81,), the model needs (4,)",
        "  roi_heads.box_head.fc1.bias: the file has int64 (128,), the model needs (128,)",
        "  roi_heads.box_head.fc2.bias: the file has no array (str), the model needs (128,)",
    ]
    assert same(model, before)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_one_difference_is_enough(tiny, write, change):
    model, other = tiny
    before, weights = copy(model), arrays(other)
    name = "roi_heads.mask_head.predictor.bias"
    if change == "missing":
        del weights[name]
    elif change == "extra":
        weights[f"{name}2"] = weights[name]
    else:
        weights[name] = weights[name][:, None]
    with pytest.raises(LabkitError, match=name):
        load(write(weights), model)
    assert same(model, before)


@pytest.mark.parametrize("key", [5, None, (1, 2), 10**5_000], ids=["5", "None", "pair", "huge"])
def test_names_that_are_no_text(tiny, write, key):
    model, other = tiny
    before, wrong = copy(model), {**arrays(other), key: np.zeros(1, np.float32)}
    path = write(wrong)
    with pytest.raises(LabkitError, match=r"weights\.pkl: .*\nunknown to the model \(1\):\n  \S"):
        load(path, model)
    path.write_bytes(pickle.dumps(wrong, 2))
    with pytest.raises(LabkitError, match=r"weights\.pkl: .*Caffe2 backbone\.\n"):
        load_backbone(path, build("mask_rcnn_r50", device="meta"))
    path.write_bytes(pickle.dumps({key: 1}, 2))
    with pytest.raises(LabkitError, match=r'weights\.pkl: .* has no "model" among \S'):
        load(path, model)
    assert same(model, before)


def test_a_prefix_on_some_names_only_is_not_stripped(tiny, write):
    model, other = tiny
    weights = arrays(other)
    name, value = weights.popitem()
    with pytest.raises(LabkitError, match=rf"unknown to the model \(1\):\n  module\.{name}"):
        load(write({**weights, f"module.{name}": value}), model)


def test_a_file_of_another_depth(write):
    """The list is long, so it is cut."""
    r50, r101 = build("mask_rcnn_r50", device="meta"), build("mask_rcnn_r101", device="meta")
    # Zeros of the shapes of R101 that take no memory.
    zeros = {name: torch.zeros(()).expand(w.shape) for name, w in r101.state_dict().items()}
    weights = to_detectron2(zeros)
    with pytest.raises(LabkitError) as refusal:
        detectron2.NAMES.load(write({}), weights, r50)
    lines = str(refusal.value).splitlines()
    assert lines[1] == "unknown to the model (255):"
    assert lines[-1] == f"  and {255 - (len(lines) - 3)} more"
    assert len(lines) <= 22
    assert detectron2.architecture(weights) == "Mask R-CNN R101-FPN"


def test_another_number_of_classes(write):
    model, other = build("mask_rcnn_tiny"), build("mask_rcnn_tiny", coco_things())
    with pytest.raises(LabkitError, match=r"file has \(81, 128\), the model needs \(4, 128\)"):
        load(write(arrays(other)), model)


def test_files_without_a_model(tiny, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros(3)}))
    with pytest.raises(LabkitError, match='it has no "model" among conv1_w; an ImageNet backbone'):
        load(path, tiny[0])
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(LabkitError, match="holds a list, not a dictionary of weights"):
        load(path, tiny[0])


# Backbones


@pytest.mark.parametrize("preset", ["mask_rcnn_r50", "mask_rcnn_r50_c4"])
def test_a_caffe2_backbone_loads(preset, tmp_path):
    """Names written out here by hand for some, the rest by counting."""
    model = build(preset)
    heads = {k: v for k, v in copy(model).items() if "res" not in k and "stem" not in k}
    generator = np.random.default_rng(0)
    blobs = {
        "conv1_w": generator.normal(size=(64, 3, 7, 7)),
        **{f"res_conv1_bn_{n}": generator.normal(size=64) for n in BATCH_NORM},
        "conv1_b": np.zeros(64),
        "fc1000_w": np.zeros((1000, 2048)),
        "fc1000_b": np.zeros(1000),
    }
    inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 2):
        for block in range(blocks):
            shapes = {
                "2a": (width, inputs, 1, 1),
                "2b": (width, width, 3, 3),
                "2c": (4 * width, width, 1, 1),
            }
            if block == 0:
                shapes["1"] = (4 * width, inputs, 1, 1)
            for branch, shape in shapes.items():
                name = f"res{stage}_{block}_branch{branch}"
                blobs[f"{name}_w"] = generator.normal(size=shape)
                blobs |= {f"{name}_bn_{n}": generator.normal(size=shape[0]) for n in BATCH_NORM}
            inputs = 4 * width
    path = tmp_path / "R-50.pkl"
    blobs = {name: array.astype(np.float32) for name, array in blobs.items()}
    path.write_bytes(pickle.dumps(blobs, 2))
    load_backbone(path, model)
    state = model.state_dict()
    body = "backbone.bottom_up." if preset == "mask_rcnn_r50" else "backbone."
    res5 = "backbone.bottom_up.res5." if preset == "mask_rcnn_r50" else "roi_heads.res5."
    for key, name in {
        f"{body}stem.conv1.weight": "conv1_w",
        f"{body}stem.conv1.norm.weight": "res_conv1_bn_gamma",
        f"{body}stem.conv1.norm.running_var": "res_conv1_bn_running_var",
        f"{body}res2.0.shortcut.weight": "res2_0_branch1_w",
        f"{body}res4.5.conv1.norm.bias": "res4_5_branch2a_bn_beta",
        f"{res5}2.conv2.weight": "res5_2_branch2b_w",
        f"{res5}0.conv3.norm.running_mean": "res5_0_branch2c_bn_running_mean",
    }.items():
        np.testing.assert_array_equal(state[key], blobs[name])
    assert all(torch.equal(state[key], value) for key, value in heads.items())

    before = copy(model)
    del blobs["res4_5_branch2a_bn_beta"]
    path.write_bytes(pickle.dumps(blobs, 2))
    with pytest.raises(LabkitError, match=r"Caffe2 backbone.*\n.*1 of 265.*\n  res4_5_branch2a_bn"):
        load_backbone(path, model)
    assert same(model, before)


BATCH_NORM = ("gamma", "beta", "running_mean", "running_var")
