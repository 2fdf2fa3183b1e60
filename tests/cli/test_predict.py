"""`labkit predict` on images: nothing is lost, nothing is overwritten unasked, panoptic files."""

import json
import signal

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from labkit.cli.predict import predict
from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png, to_panoptic
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.structures import Detections, Prediction
from labkit.system.folder_lock import LOCK

DATA = Shapes("val", 3, size=48)


class Truth(torch.nn.Module):
    """The ground truth of an image, recognised by its pixels; Ctrl-C where the test says."""

    def __init__(self, stop_at=None, panoptic=True):
        super().__init__()
        self.categories = DATA.categories
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_at, self.calls, self.panoptic = stop_at, 0, panoptic
        self.truth = {image.numpy().tobytes(): target for image, target in DATA}

    def forward(self, images):
        self.calls += 1
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        target = self.truth[images[0].numpy().tobytes()]
        scores = torch.ones(len(target["labels"]))
        found = Detections(target["boxes"], scores, target["labels"], target["masks"])
        return [Prediction(found, None, target["panoptic"] if self.panoptic else None)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of three images, and the truth as what any model's name loads."""
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Truth())
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (image, _) in zip(("a.png", "b.png", "17.png"), DATA, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "notes.txt").touch()
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def test_a_folder_and_a_pattern(photos, tmp_path, capsys):
    predict([str(photos)], model="m", out=tmp_path / "out")
    assert names_in(tmp_path / "out") == ["17.png", "a.png", "b.png", "predictions.json"]
    assert "3 drawings and predictions.json" in capsys.readouterr().out
    predict([f"{photos}/[ab].png"], model="m", out=tmp_path / "two")
    assert names_in(tmp_path / "two") == ["a.png", "b.png", "predictions.json"]
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {"a", "b", 17}


def test_panoptic_maps_of_pictures(photos, tmp_path):
    out = tmp_path / "out"
    predict([str(photos)], model="m", out=out, panoptic=True)
    assert names_in(out) == ["17.json", "17.png", "a.json", "a.png", "b.json", "b.png"]
    for i, (name, image_id) in enumerate((("a", "a"), ("b", "b"), ("17", 17))):
        content = read_json(out / f"{name}.json")
        assert content["images"] == [
            {"id": image_id, "file_name": f"{name}.png", "height": 48, "width": 48}
        ]
        (annotation,) = content["annotations"]
        assert (annotation["image_id"], annotation["file_name"]) == (image_id, f"{name}.png")
        ids = read_png(out / annotation["file_name"])
        back = to_panoptic(annotation, ids, DATA.categories, name)
        truth = DATA[i][1]["panoptic"]
        assert torch.equal(back.ids, truth.ids)
        assert back.segments == truth.segments


def test_a_model_without_maps_writes_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Truth(panoptic=False))
    with pytest.raises(LabkitError, match="m: this model makes no panoptic maps; take one that"):
        predict([str(photos)], model="m", out=tmp_path / "out", panoptic=True)
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize("panoptic", [False, True])
def test_results_are_replaced_on_request_only(photos, tmp_path, panoptic):
    out = tmp_path / "out"
    predict([str(photos / "a.png")], model="m", out=out, panoptic=panoptic)
    before = {name: (out / name).read_bytes() for name in names_in(out)}
    (out / "a.png").write_bytes(b"mine")
    with pytest.raises(LabkitError) as refusal:
        predict([str(photos)], model="m", out=out, panoptic=panoptic)
    assert str(refusal.value) == (
        f"{out / 'a.png'} and 1 other file: there already. Replace with --overwrite, or name"
        " another --out"
    )
    assert names_in(out) == sorted(before)
    assert (out / "a.png").read_bytes() == b"mine"
    predict([str(photos / "a.png")], model="m", out=out, panoptic=panoptic, overwrite=True)
    assert {name: (out / name).read_bytes() for name in names_in(out)} == before


def test_pictures_are_never_replaced_by_their_results(photos):
    before = (photos / "a.png").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(LabkitError, match=r"a\.png: the result would replace the image"):
            predict([str(photos / "a.png")], model="m", out=photos, overwrite=overwrite)
    assert (photos / "a.png").read_bytes() == before


def test_two_pictures_of_one_name(photos, tmp_path):
    other = tmp_path / "a.jpg"
    other.touch()
    with pytest.raises(LabkitError, match=r"photos/a\.png and .*a\.jpg would both be the image a"):
        predict([str(photos), str(other)], model="m", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_a_data_set_are_never_replaced(photos, tmp_path):
    export_coco(DATA, tmp_path / "set")
    for overwrite in (False, True):
        with pytest.raises(LabkitError, match="the result would replace the image"):
            predict(
                model="m", data=f"coco:{tmp_path / 'set'}", overwrite=overwrite,
                out=tmp_path / "set" / "val",
            )  # fmt: skip


def test_ctrl_c_and_unreadable_pictures_lose_nothing(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Truth(stop_at=2))
    (photos / "aa.png").write_bytes(b"no picture")
    with pytest.raises(typer.Exit) as stopped:
        predict([f"{photos}/[ab]*.png"], model="m", out=tmp_path / "out")
    assert stopped.value.exit_code == 130
    assert "stopped after 1 of 3 images" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {"a"}
    assert names_in(tmp_path / "out") == ["a.png", "predictions.json"]
    with pytest.raises(LabkitError, match=r"missing\.png: image not found"):
        predict([str(photos / "missing.png")], model="m", out=tmp_path / "none")
    assert names_in(tmp_path / "none") == []  # nothing that a second try would have to replace
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert drawn.std() > 10
