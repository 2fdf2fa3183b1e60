"""Files as four projects write them, with classes of their own: found out, loaded, refused."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from helpers.checkpoint_files import write_config
from torchvision.models.detection import maskrcnn_resnet50_fpn

from labkit.checkpoints import torchvision as torchvision_format
from labkit.checkpoints.detectron2 import to_detectron2
from labkit.checkpoints.detr import detr_key_map
from labkit.checkpoints.own_files import is_checkpoint, load_file, read_categories
from labkit.checkpoints.upsnet import upsnet_key_map
from labkit.engine.predictor import Predictor, load_model
from labkit.errors import LabkitError
from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

THREE = Categories(Category(i, name, True) for i, name in enumerate(("cup", "plate", "fork"), 1))


def same_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def categories_file(folder, categories, name="annotations.json"):
    path = folder / name
    path.write_text(json.dumps({"categories": categories.to_coco()[::-1]}))
    return path


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return PRESETS["mask_rcnn_r50"].build(THREE).eval()


@pytest.fixture(scope="module")
def detectron2_file(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectron2")
    path = folder / "model_final.pth"
    torch.save({"model": to_detectron2(trained.state_dict()), "iteration": 299}, path)
    write_config(folder, ("MODEL.ROI_HEADS.NUM_CLASSES", 3))
    return path


def test_detectron2(trained, detectron2_file, tmp_path):
    model = load_file(detectron2_file)
    assert model.config == trained.config
    assert same_weights(model, trained)
    assert [c.name for c in model.categories] == ["class 1", "class 2", "class 3"]
    named = load_model(detectron2_file, categories_file(tmp_path, THREE))
    assert [c.name for c in named.categories] == ["cup", "plate", "fork"], "in the order of the ids"
    image = torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8)
    ours, theirs = (Predictor(m)(image).detections for m in (named, trained))
    assert torch.equal(ours.scores, theirs.scores)


def test_detectron2_without_its_configuration(detectron2_file, tmp_path):
    alone = tmp_path / "model_final.pth"
    alone.symlink_to(detectron2_file)
    with pytest.raises(LabkitError, match=r"needs its configuration: put the config\.yaml"):
        load_file(alone)
    write_config(tmp_path, ("MODEL.ROI_HEADS.NUM_CLASSES", 5))
    with pytest.raises(
        LabkitError, match=r"cls_score.*the file has \(4, 1024\).*needs \(6, 1024\)"
    ):
        load_file(alone)


def test_number_of_classes_must_agree(detectron2_file):
    two = Categories(list(THREE)[:2])
    with pytest.raises(LabkitError, match="are 3 things and 0 stuff; the categories given are 2"):
        load_file(detectron2_file, two)
    more = Categories([*THREE, Category(9, "table", False)])
    assert [c.name for c in load_file(detectron2_file, more).categories] == ["cup", "plate", "fork"]


def test_torchvision(tmp_path):
    torch.manual_seed(1)
    reference = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    path = tmp_path / "best.pt"
    torch.save(reference.state_dict(), path)
    model = load_file(path, THREE)
    expected = torchvision_format.CONFIG.build(THREE)
    torchvision_format.load(path, expected)
    assert same_weights(model, expected)
    assert model.config == torchvision_format.CONFIG


def test_detr_of_ones_own_classes(tmp_path, monkeypatch):
    torch.manual_seed(2)
    base = PRESETS["detr_r50_dc5"]
    model = replace(base, num_ids=4, num_queries=25).build(THREE)
    names = detr_key_map(panoptic=False)
    path = tmp_path / "checkpoint.pth"
    state = {names.name(key): value for key, value in model.state_dict().items()}
    torch.save({"model": state, "args": argparse.Namespace(dilation=True)}, path)
    read = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *args, **options: read.append(1) or load(*args, **options)
    )
    loaded = load_file(path, THREE)
    assert len(read) == 1, "large files are read once"
    assert same_weights(loaded, model)
    assert loaded.config.backbone.kind == "dc5", "the options tell what the weights do not"
    assert loaded.config.num_queries == 25
    beyond = Categories([Category(1, "cup", True), Category(7, "fork", True)])
    with pytest.raises(LabkitError, match="category ids below 4; fork has the id 7"):
        load_file(path, beyond)


def test_upsnet_of_cityscapes(tmp_path):
    torch.manual_seed(3)
    classes = Categories(Category(i, f"c{i}", i <= 8) for i in range(1, 20))
    model = PRESETS["upsnet_r50_cityscapes"].build(classes)
    names = upsnet_key_map(11)
    state = {}
    for key, value in model.state_dict().items():
        rows = names.rows.get(key)
        if rows is not None and rows.extra:  # the background's row, which is first there
            value = torch.cat([torch.zeros(rows.extra, *value.shape[1:]), value])
            state[names.name(key)] = value
        elif rows is not None:  # undo the change of order
            order = rows.convert(torch.arange(len(value)))
            state[names.name(key)] = value[order.argsort()]
        else:
            state[names.name(key)] = value
    path = tmp_path / "upsnet.pth"
    torch.save(state, path)
    loaded = load_file(path)
    assert loaded.config == model.config
    assert (len(loaded.categories.things), len(loaded.categories.stuff)) == (8, 11)
    assert loaded.categories[0].name == "person", "8 and 11 classes are Cityscapes'"


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"encoder.weight": torch.zeros(3), "head.bias": torch.zeros(2)}, path)
    with pytest.raises(LabkitError, match=r"no weights of Detectron2.*encoder\.weight"):
        load_model(path)
    state = {"backbone.body.conv1.weight": torch.zeros(1), "rpn.head.x": torch.zeros(1)}
    torch.save(state, path)
    with pytest.raises(LabkitError, match=r"cls_score\.weight is missing"):
        load_model(path)
    file = tmp_path / "classes.json"
    file.write_text("[1, 2]")
    with pytest.raises(LabkitError, match=r"classes\.json: not a COCO JSON file"):
        read_categories(file)
    with pytest.raises(LabkitError, match="mask_rcnn_tiny knows its categories"):
        load_model("mask_rcnn_tiny", file)


def test_files_of_a_labkit_run_are_none(tmp_path):
    (tmp_path / "last.pt").touch()
    assert is_checkpoint(tmp_path / "last.pt")
    (tmp_path / "run.json").touch()
    assert not is_checkpoint(tmp_path / "last.pt")
    assert not is_checkpoint(tmp_path / "missing.pth")
