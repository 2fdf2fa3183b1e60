"""Mask2Former's and EoMT's published weights: every name and shape, old names, what is refused."""

import pickle

import numpy as np
import pytest
import torch

from labkit.checkpoints import eomt, mask2former
from labkit.checkpoints.model_zoo import find
from labkit.datasets.coco.categories import coco_panoptic, coco_things
from labkit.errors import LabkitError
from labkit.models import PRESETS

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
HEAD = "sem_seg_head."


class Shapes(dict):
    """Shapes by name, with the layers' usual entries."""

    def layer(self, name, *shape, bias=True):
        self[f"{name}.weight"] = shape
        if bias:
            self[f"{name}.bias"] = shape[:1]

    def norm(self, name, channels):
        self[f"{name}.weight"] = self[f"{name}.bias"] = (channels,)


def mask2former_file(depth, classes):
    """The names and shapes in a published file of Mask2Former."""
    shapes = Shapes()

    def conv(name, *shape):
        shapes.layer(name, *shape, bias=False)
        for value in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{value}"] = shape[:1]

    conv("backbone.stem.conv1", 64, 3, 7, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth], 2):
        width = 64 * 2 ** (stage - 2)
        for i in range(blocks):
            block = f"backbone.res{stage}.{i}"
            if i == 0:
                conv(f"{block}.shortcut", 4 * width, inputs, 1, 1)
            conv(f"{block}.conv1", width, inputs, 1, 1)
            conv(f"{block}.conv2", width, width, 3, 3)
            conv(f"{block}.conv3", 4 * width, width, 1, 1)
            inputs = 4 * width
    pixels, queries = f"{HEAD}pixel_decoder.", f"{HEAD}predictor."
    for level, channels in enumerate((2048, 1024, 512)):
        shapes.layer(f"{pixels}input_proj.{level}.0", 256, channels, 1, 1)
        shapes.norm(f"{pixels}input_proj.{level}.1", 256)
    shapes[f"{pixels}transformer.level_embed"] = (3, 256)
    for i in range(6):
        layer = f"{pixels}transformer.encoder.layers.{i}"
        for name, outputs in (
            ("sampling_offsets", 192),
            ("attention_weights", 96),
            ("value_proj", 256),
            ("output_proj", 256),
        ):
            shapes.layer(f"{layer}.self_attn.{name}", outputs, 256)
        shapes.norm(f"{layer}.norm1", 256)
        shapes.layer(f"{layer}.linear1", 1024, 256)
        shapes.layer(f"{layer}.linear2", 256, 1024)
        shapes.norm(f"{layer}.norm2", 256)
    shapes.layer(f"{pixels}adapter_1", 256, 256, 1, 1, bias=False)
    shapes.norm(f"{pixels}adapter_1.norm", 256)
    shapes.layer(f"{pixels}layer_1", 256, 256, 3, 3, bias=False)
    shapes.norm(f"{pixels}layer_1.norm", 256)
    shapes.layer(f"{pixels}mask_features", 256, 256, 1, 1)
    for i in range(9):
        for kind, attention in (("cross", "multihead_attn"), ("self", "self_attn")):
            layer = f"{queries}transformer_{kind}_attention_layers.{i}"
            shapes[f"{layer}.{attention}.in_proj_weight"] = (768, 256)
            shapes[f"{layer}.{attention}.in_proj_bias"] = (768,)
            shapes.layer(f"{layer}.{attention}.out_proj", 256, 256)
            shapes.norm(f"{layer}.norm", 256)
        layer = f"{queries}transformer_ffn_layers.{i}"
        shapes.layer(f"{layer}.linear1", 2048, 256)
        shapes.layer(f"{layer}.linear2", 256, 2048)
        shapes.norm(f"{layer}.norm", 256)
    shapes.norm(f"{queries}decoder_norm", 256)
    for name, rows in (("query_feat", 100), ("query_embed", 100), ("level_embed", 3)):
        shapes.layer(f"{queries}{name}", rows, 256, bias=False)
    shapes.layer(f"{queries}class_embed", classes + 1, 256)
    for i in range(3):
        shapes.layer(f"{queries}mask_embed.layers.{i}", 256, 256)
    shapes["criterion.empty_weight"] = (classes + 1,)
    return shapes


def eomt_file(width, depth, last):
    """The names and shapes in a published file of EoMT."""
    shapes = Shapes()
    vit = "network.encoder.backbone."
    shapes["network.encoder.pixel_mean"] = shapes["network.encoder.pixel_std"] = (1, 3, 1, 1)
    shapes[f"{vit}cls_token"] = (1, 1, width)
    shapes[f"{vit}reg_token"] = (1, 4, width)
    shapes[f"{vit}pos_embed"] = (1, 1600, width)
    shapes.layer(f"{vit}patch_embed.proj", width, 3, 16, 16)
    for i in range(depth):
        block = f"{vit}blocks.{i}."
        shapes.norm(f"{block}norm1", width)
        shapes.layer(f"{block}attn.qkv", 3 * width, width)
        shapes.layer(f"{block}attn.proj", width, width)
        shapes[f"{block}ls1.gamma"] = shapes[f"{block}ls2.gamma"] = (width,)
        shapes.norm(f"{block}norm2", width)
        shapes.layer(f"{block}mlp.fc1", 4 * width, width)
        shapes.layer(f"{block}mlp.fc2", width, 4 * width)
    shapes.norm(f"{vit}norm", width)
    shapes["network.q.weight"] = (200, width)
    shapes.layer("network.class_head", 134, width)
    for i in (0, 2, 4):
        shapes.layer(f"network.mask_head.{i}", width, width)
    for i in range(2):
        block = f"network.upscale.{i}."
        shapes[f"{block}conv1.weight"] = (width, width, 2, 2)
        shapes[f"{block}conv1.bias"] = (width,)
        shapes[f"{block}conv2.weight"] = (width, 1, 3, 3)
        shapes.norm(f"{block}norm", width)
    shapes["network.attn_mask_probs"] = (last,)
    shapes["criterion.empty_weight"] = (134,)
    return shapes


def write_pickle(path, shapes):
    """As Detectron2 publishes: a pickle of NumPy arrays, here of zeros."""
    model = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path.write_bytes(pickle.dumps({"model": model, "__author__": "third_party"}))


@pytest.mark.parametrize(
    ("name", "depth", "categories", "entries"),
    [
        ("mask2former_R_50", 50, coco_panoptic, 558),
        ("mask2former_R_101", 101, coco_panoptic, 813),
        ("mask2former_R_50_instance", 50, coco_things, 558),
    ],
)
def test_every_name_and_shape_of_mask2former(name, depth, categories, entries):
    with torch.device("meta"):
        model = PRESETS[find(name).preset].build(categories())
    classes = len(model.categories)
    shapes = mask2former_file(depth, classes)
    assert len(shapes) == entries
    shapes.pop("criterion.empty_weight")
    ours = {mask2former.NAMES.name(k): tuple(v.shape) for k, v in model.state_dict().items()}
    assert ours == shapes


@pytest.mark.parametrize(
    ("name", "width", "depth", "last", "entries"),
    [
        ("eomt_small_640", 384, 12, 3, 198),
        ("eomt_base_640", 768, 12, 3, 198),
        ("eomt_large_640", 1024, 24, 4, 366),
    ],
)
def test_every_name_and_shape_of_eomt(name, width, depth, last, entries):
    with torch.device("meta"):
        model = PRESETS[find(name).preset].build(coco_panoptic())
    shapes = eomt_file(width, depth, last)
    assert len(shapes) == entries
    ours = {eomt.NAMES.name(k): tuple(v.shape) for k, v in model.state_dict().items()}
    dropped = {"network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight"}
    assert ours == {k: v for k, v in shapes.items() if k not in dropped}


@pytest.fixture(scope="module")
def model():
    return PRESETS["mask2former_r50"].build(coco_panoptic())


def old(name):
    """The name in a file of the first months."""
    name = name.replace("predictor.query_feat", "predictor.static_query")
    return name.replace(f"{HEAD}pixel_decoder.", HEAD)


@pytest.mark.parametrize("rename", [str, old], ids=["names of today", "names of the first months"])
def test_a_file_is_loaded(rename, tmp_path, model):
    path = tmp_path / "model_final.pkl"
    write_pickle(path, {rename(k): v for k, v in mask2former_file(50, 133).items()})
    torch.nn.init.ones_(model.decoder.query_feat.weight)
    mask2former.load(path, model)
    assert model.decoder.query_feat.weight.abs().max() == 0
    assert model.pixel_decoder.mask_features.weight.abs().max() == 0


def test_one_name_off_is_refused(tmp_path, model):
    shapes = mask2former_file(50, 133)
    shapes[f"{HEAD}predictor.decoder_nrm.weight"] = shapes.pop(
        f"{HEAD}predictor.decoder_norm.weight"
    )
    path = tmp_path / "model_final.pkl"
    write_pickle(path, shapes)
    torch.nn.init.ones_(model.decoder.query_feat.weight)
    with pytest.raises(LabkitError) as caught:
        mask2former.load(path, model)
    lines = str(caught.value).splitlines()
    assert "missing from the file (1 of 557):" in lines
    assert f"  {HEAD}predictor.decoder_norm.weight" in lines
    assert f"  {HEAD}predictor.decoder_nrm.weight" in lines
    assert model.decoder.query_feat.weight.min() == 1  # nothing was loaded


def test_another_number_of_queries_is_refused(tmp_path, model):
    shapes = mask2former_file(50, 133)
    shapes[f"{HEAD}predictor.query_feat.weight"] = (200, 256)
    path = tmp_path / "model_final.pkl"
    write_pickle(path, shapes)
    with pytest.raises(LabkitError, match=r"\(200, 256\), the model needs \(100, 256\)"):
        mask2former.load(path, model)


def test_an_eomt_file_is_loaded_and_one_with_code_refused(tmp_path):
    model = PRESETS["eomt_small_640"].build(coco_panoptic())
    path = tmp_path / "pytorch_model.bin"
    torch.save({k: torch.zeros(v) for k, v in eomt_file(384, 12, 3).items()}, path)
    eomt.load(path, model)
    assert model.q.weight.abs().max() == model.attn_mask_probs.max() == 0
    torch.save({"network.q.weight": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(LabkitError, match="refused: it asks for"):
        eomt.load(path, model)
