"""The published weights: the catalogue, fetching from a server on this machine, a model at last."""

import hashlib
import pickle
import re
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from helpers.command import labkit

from labkit.checkpoints import model_zoo, torchvision
from labkit.checkpoints.detectron2 import to_detectron2
from labkit.checkpoints.model_zoo import (
    Checkpoint,
    fetch_weights,
    find,
    load,
    path_of,
    published_weights,
)
from labkit.cli import zoo
from labkit.datasets.coco.categories import coco_things
from labkit.errors import LabkitError
from labkit.models import PRESETS

CONTENT = bytes(range(256)) * 2048  # 512 KiB
MD5 = hashlib.md5(CONTENT).hexdigest()


FILE = "1/model_final.pkl"


@pytest.fixture
def server(file_server):
    file_server.files[FILE] = CONTENT
    return file_server


@pytest.fixture
def weights(server):
    return Checkpoint(
        name="small_3x",
        preset="mask_rcnn_tiny",
        format="detectron2",
        categories="coco_things",
        url=server.url(FILE),
        hash=f"md5:{MD5[:6]}",
        megabytes=1,
        licence="free for all",
        metrics={"box AP": 1.0},
    )


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Fetching


def test_get(weights, server, tmp_path):
    said = []
    path = fetch_weights(weights, tmp_path, said.append)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["checkpoints/small_3x.pkl"]
    assert "Licence: free for all" in said[0]
    assert fetch_weights(weights, tmp_path, said.append) == path
    assert len(server.asked) == 1


def test_the_usual_folder(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(tmp_path))
    assert fetch_weights(weights, show=lambda _: None) == tmp_path / "checkpoints" / "small_3x.pkl"


def test_a_hash_by_sha256(weights, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch_weights(replace(weights, hash=f"sha256:{digest[:8]}"), tmp_path, lambda _: None)
    assert names(tmp_path) == ["checkpoints/small_3x.pkl"]


def test_a_broken_connection_is_taken_up_again(weights, server, tmp_path):
    server.cut = 3
    with pytest.raises(LabkitError, match="run the command again to resume"):
        fetch_weights(weights, tmp_path, lambda _: None)
    assert not weights.path(tmp_path).exists()
    fetch_weights(weights, tmp_path, lambda _: None)
    assert names(tmp_path) == ["checkpoints/small_3x.pkl"]
    assert all(re.fullmatch(r"bytes=[1-9]\d*-", wanted) for wanted in server.asked[1:])


def test_a_wrong_file_is_not_kept(weights, server, tmp_path):
    server.files[FILE] = b"<html>log in</html>"
    with pytest.raises(LabkitError, match=rf"does not begin with md5:{MD5[:6]}; it was removed"):
        fetch_weights(weights, tmp_path, lambda _: None)
    assert names(tmp_path) == []
    server.files[FILE] = CONTENT
    fetch_weights(weights, tmp_path, lambda _: None)
    assert names(tmp_path) == ["checkpoints/small_3x.pkl"]


def test_a_damaged_file_on_disk_is_told(weights, tmp_path):
    path = weights.path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(LabkitError, match=r"small_3x\.pkl: its hash does not begin .* Remove it"):
        fetch_weights(weights, tmp_path, lambda _: None)
    assert path.read_bytes() == b"old"


# The catalogue


def test_the_catalogue():
    known = published_weights()
    assert len(known) == 27
    assert len({c.url for c in known.values()}) == 27
    for name, checkpoint in known.items():
        assert checkpoint.licence
        digits = checkpoint.hash.split(":")[-1]
        assert checkpoint.hash == model_zoo.NO_HASH or re.search(
            rf"[-_]{digits}\.(pkl|pth)\Z", checkpoint.url
        )
        if checkpoint.format == "detectron2":
            assert checkpoint.hash.startswith("md5:")
            assert f"/{name}/" in checkpoint.url
            depth = name.split("_R_")[1].split("_")[0]
            assert f"_r{depth}" in checkpoint.preset
        assert callable(import_module(f"labkit.checkpoints.{checkpoint.format}").load)
        # Parameters are float32, and nearly everything is a parameter.
        with torch.device("meta"):
            model = PRESETS[checkpoint.preset].build(checkpoint.list_categories())
        size = sum(v.numel() for v in model.state_dict().values()) * 4e-6
        assert checkpoint.megabytes == pytest.approx(size, rel=0.02)
    assert known["mask_rcnn_R_50_FPN_3x"].metrics == {"box AP": 41.0, "mask AP": 37.2}
    assert known["panoptic_fpn_R_101_3x"].metrics["PQ"] == 43.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a\n", r"zoo\.toml is not valid TOML: "),
        ('[a]\npreset="p"\nsize=3\n', r"\[a\]: .*'size'"),
        ('[a]\npreset="p"\n', r"\[a\]: .*missing"),
        (
            '[a]\npreset="p"\nformat="f"\ncategories="c"\nurl="u"\nhash="h"\nmegabytes=1\n'
            'licence="l"\nmetrics={}\n',
            r"\[a\]: format is one of detectron2, torchvision, upsnet, detr, mask2former, eomt,"
            " categories one of",
        ),
    ],
)
def test_a_wrong_catalogue_is_refused(tmp_path, text, message):
    path = tmp_path / "zoo.toml"
    path.write_text(text)
    with pytest.raises(LabkitError, match=message):
        published_weights(path)
    with pytest.raises(LabkitError, match=r"none\.toml: not found"):
        published_weights(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mask_rcnn_R_50_FPN", r"did you mean mask_rcnn_R_50_FPN_3x\?"),
        ("MASK_RCNN_r_101_dc5_3X", "did you mean mask_rcnn_R_101_DC5_3x\\? "),
        ("maskrcnn_resnet50", "did you mean maskrcnn_resnet50_fpn"),
        ("yolo", r"no folder and no weights are called 'yolo'; `labkit zoo list` shows all"),
        ("deeplab_tiny", "is a preset .* of this name; train it, `labkit train deeplab_tiny`"),
        ("mask_rcnn_r101", "published ones: mask_rcnn_R_101_FPN_3x; or train it"),
    ],
)
def test_an_unknown_name(name, meant):
    with pytest.raises(LabkitError, match=meant):
        find(name)


# Models


def test_not_fetched_yet(tmp_path):
    name = "mask_rcnn_R_50_FPN_3x"
    for use in (path_of, load):
        with pytest.raises(
            LabkitError, match=rf"{name}\.pkl: not fetched yet.*labkit zoo get {name}"
        ):
            use(name, tmp_path)


def test_a_published_file_becomes_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(tmp_path))
    torch.manual_seed(0)
    model = PRESETS["mask_rcnn_r50_c4"].build(coco_things())
    content = {k: v.numpy() for k, v in to_detectron2(model.state_dict()).items()}
    path = find("mask_rcnn_R_50_C4_3x").path(tmp_path)
    path.parent.mkdir()
    with path.open("wb") as file:
        pickle.dump({"model": content, "__author__": "Detectron2 Model Zoo"}, file, 2)
    loaded = load("mask_rcnn_R_50_C4_3x")
    assert not loaded.training
    assert loaded.categories == coco_things()
    state = loaded.state_dict()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    path.rename(find("mask_rcnn_R_50_FPN_3x").path(tmp_path))
    with pytest.raises(LabkitError, match="looks like Mask R-CNN R50-C4, the model Mask R-CNN R50"):
        load("mask_rcnn_R_50_FPN_3x")


def test_torchvision_s_weights_get_its_conventions_and_categories(tmp_path, monkeypatch):
    path = find("maskrcnn_resnet50_fpn").path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"")
    seen = []
    monkeypatch.setattr(torchvision, "load", lambda *arguments: seen.append(arguments))
    with torch.device("meta"):
        model = load("maskrcnn_resnet50_fpn", tmp_path)
    assert seen == [(path, model)]
    assert model.config == torchvision.CONFIG
    assert len(model.categories) == 90
    assert model.categories[12].name == "stop sign"


# Commands


def test_the_commands(weights, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_zoo, "published_weights", lambda: {"small_3x": weights})
    zoo.list_(tmp_path)
    before = capsys.readouterr().out
    assert re.search(r"small_3x +mask_rcnn_tiny +1\.0 +1\s*\n", before)
    assert "licence of small_3x: free for all" in before
    zoo.get(["small_3x"], tmp_path)
    said = capsys.readouterr().out
    assert "Licence: free for all" in said
    assert f"small_3x is in {tmp_path / 'checkpoints' / 'small_3x.pkl'}" in said
    zoo.list_(tmp_path)
    assert re.search(r"small_3x .* yes\s*\n", capsys.readouterr().out)


def test_names_are_listed_whole(tmp_path, capsys):
    """To be copied, also from a narrow terminal."""
    zoo.list_(tmp_path)
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in published_weights())


def test_the_command_line():
    wrong = labkit("zoo", "get", "mask_rcnn")
    assert wrong.returncode == 1
    assert "no folder and no weights are called 'mask_rcnn'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
