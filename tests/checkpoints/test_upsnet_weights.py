"""UPSNet's published weights: every name and shape, the order of classes, and what is refused."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from labkit.checkpoints import model_zoo
from labkit.checkpoints.model_zoo import find
from labkit.checkpoints.upsnet import assign, load, upsnet_key_map
from labkit.errors import LabkitError
from labkit.models import PRESETS

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PUBLISHED = {
    # depth, things, stuff, deformable backbone, entries, million parameters
    "upsnet_R_50": (50, 80, 53, False, 376, 46.13),
    "upsnet_R_101_dcn": (101, 80, 53, True, 742, 66.41),
    "upsnet_R_50_cityscapes": (50, 8, 11, False, 370, 44.53),
    "upsnet_R_101_cityscapes": (101, 8, 11, False, 676, 63.52),
}


def published(depth, things, stuff, deformable):
    """The names and shapes in a published file."""
    shapes = {}

    def layer(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name, channels):
        for value in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{value}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    layer("resnet_backbone.conv1.conv1", 64, 3, 7, 7, bias=False)
    norm("resnet_backbone.conv1.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth], 2):
        width = 64 * 2 ** (stage - 2)
        for i in range(blocks):
            block = f"resnet_backbone.res{stage}.layers.{i}"
            convs = [(width, inputs, 1), (width, width, 3), (4 * width, width, 1)]
            for number, (outputs, before, side) in enumerate(convs, 1):
                layer(f"{block}.conv{number}", outputs, before, side, side, bias=False)
                norm(f"{block}.bn{number}", outputs)
            if deformable and stage > 2:
                layer(f"{block}.conv2_offset", 18, width, 3, 3)
            if i == 0:
                layer(f"{block}.downsample.0", 4 * width, inputs, 1, 1, bias=False)
                norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
        layer(f"fpn.fpn_p{stage}_1x1", 256, inputs, 1, 1)
        layer(f"fpn.fpn_p{stage}", 256, 256, 3, 3)
    coco = things == 80
    if coco:
        layer("fpn.fpn_gap", 256, 2048)
    layer("rpn.conv_proposal.0", 256, 256, 3, 3)
    layer("rpn.cls_score", 3, 256, 1, 1)
    layer("rpn.bbox_pred", 12, 256, 1, 1)
    layer("rcnn.fc6.0", 1024, 256 * 49)
    layer("rcnn.fc7.0", 1024, 1024)
    layer("rcnn.cls_score", things + 1, 1024)
    layer("rcnn.bbox_pred", 4 * (things + 1), 1024)
    for number in range(1, 5):
        layer(f"mask_branch.mask_conv{number}.0", 256, 256, 3, 3)
    layer("mask_branch.mask_deconv1.0", 256, 256, 2, 2)
    layer("mask_branch.mask_score", things + 1, 256, 1, 1)
    widths = (256, 256, 128, 128) if coco else (256, 128, 128)
    for i, (before, after) in enumerate(pairwise(widths)):
        layer(f"fcn_head.fcn_subnet.conv.{i}.0.conv_offset", 18, before, 3, 3)
        layer(f"fcn_head.fcn_subnet.conv.{i}.0.conv", after, before, 3, 3)
    layer("fcn_head.score", stuff + things, 512, 1, 1)
    return shapes


def content(shapes):
    """Tensors of these shapes that take no memory."""
    counts = torch.zeros((), dtype=torch.int64)
    return {
        name: counts if name.endswith("tracked") else torch.zeros(()).expand(shape)
        for name, shape in shapes.items()
    }


def meta_model(name):
    checkpoint = find(name)
    with torch.device("meta"):
        return PRESETS[checkpoint.preset].build(checkpoint.list_categories())


@pytest.mark.filterwarnings("ignore:.*meta:UserWarning")
@pytest.mark.parametrize("name", list(PUBLISHED))
@pytest.mark.parametrize("wrapped", [False, True])
def test_published_files_fit(name, wrapped, tmp_path, capsys):
    *made_of, entries, millions = PUBLISHED[name]
    shapes = published(*made_of)
    assert len(shapes) == entries
    learnt = [s for n, s in shapes.items() if not n.endswith(("_mean", "_var", "tracked"))]
    assert sum(map(math.prod, learnt)) / 1e6 == pytest.approx(millions, abs=0.005)
    weights = content(shapes)
    if wrapped:
        weights = {f"module.{n}": w for n, w in weights.items() if not n.endswith("tracked")}
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    load(path, meta_model(name))
    assert "non-commercial use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: w.pop("rpn.cls_score.bias"),
            "missing from the file (1 of 323):\n  rpn.cls_score.bias",
        ),
        (
            lambda w: w.update({"rpn.score.bias": w.pop("rpn.cls_score.bias")}),
            "unknown to the model (1):\n  rpn.score.bias",
        ),
        (
            lambda w: w.update({"fcn_head.score.weight": torch.zeros(19, 512, 1, 1)}),
            "fcn_head.score.weight: the file has (19, 512, 1, 1), the model needs (133, 512, 1, 1)",
        ),
    ],
)
def test_one_difference_is_refused(change, said, tmp_path):
    name = "upsnet_R_50"
    weights = content(published(*PUBLISHED[name][:4]))
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(LabkitError) as refusal:
        load(tmp_path / "weights.pth", meta_model(name))
    assert "nothing was loaded" in str(refusal.value)
    assert said in str(refusal.value)


def test_the_order_of_classes():
    """Background first becomes background last; stuff before things becomes things before stuff."""
    rows = upsnet_key_map(53).rows
    score = rows["sem_seg_head.score.bias"].convert(torch.arange(133))
    assert score.tolist() == [*range(53, 133), *range(53)]
    classes = rows["roi_heads.cls_score.bias"].convert(torch.arange(81))
    assert classes.tolist() == [*range(1, 81), 0]
    assert rows["roi_heads.bbox_pred.weight"].convert(torch.arange(324)).tolist()[0] == 4
    assert rows["roi_heads.mask_head.predictor.bias"].convert(torch.arange(81)).tolist()[0] == 1


def test_other_conventions_and_other_files_are_refused(tmp_path):
    torch.save([1], tmp_path / "weights.pth")
    with pytest.raises(LabkitError, match="holds a list, not a state dict"):
        load(tmp_path / "weights.pth", meta_model("upsnet_R_50"))
    with torch.device("meta"):
        tiny = PRESETS["upsnet_tiny"].build(find("upsnet_R_50").list_categories())
    with pytest.raises(LabkitError, match="need a model with its conventions"):
        assign(tmp_path / "weights.pth", {}, tiny)


def test_the_store_builds_the_model_of_the_file(tmp_path, monkeypatch):
    path = find("upsnet_R_50_cityscapes").path(tmp_path)
    path.parent.mkdir()
    torch.save(content(published(*PUBLISHED["upsnet_R_50_cityscapes"][:4])), path)
    with torch.device("meta"):
        model = model_zoo.load("upsnet_R_50_cityscapes", tmp_path)
    assert model.config == PRESETS["upsnet_r50_cityscapes"]
    assert not model.training


def test_a_file_without_a_published_hash_is_said_to_be_unchecked(file_server, tmp_path):
    file_server.files["weights.pth"] = b"1234"
    weights = replace(find("upsnet_R_50"), url=file_server.url("weights.pth"))
    said = []
    model_zoo.fetch_weights(weights, tmp_path, said.append)
    assert "Uber Non-Commercial License" in said[0]
    assert "No hash is published" in said[1]
