"""`labkit predict --panoptic` and `labkit eval --panoptic`, with models whose answer is known."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from labkit.cli.eval import evaluate as eval_command
from labkit.cli.predict import predict as predict_command
from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png, to_panoptic
from labkit.datasets.shapes import Shapes
from labkit.datasets.targets import target_from_panoptic
from labkit.engine.evaluate import evaluate
from labkit.engine.panoptic_files import fingerprint, predict_panoptic
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality_files import evaluate_files
from labkit.models import build
from labkit.structures import (
    IGNORE,
    Categories,
    Category,
    Detections,
    Panoptic,
    Prediction,
    Segment,
)
from labkit.system.distributed import process_group
from labkit.system.folder_lock import LOCK

NAMES = {"model_name": "m", "data_name": "d", "split": "val"}


class Answers(torch.nn.Module):
    """Gives a known prediction for each image of a data set, recognised by its pixels."""

    asked = 0

    def __init__(self, categories, answers):
        super().__init__()
        self.categories = categories
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers = answers
        self.eval()

    def forward(self, images):
        Answers.asked += len(images)
        return [self.answers[image.numpy().tobytes()] for image in images]


class Stopped(Shapes):
    """Ctrl-C while the third image is read."""

    def __getitem__(self, index):
        if index == 2:
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


def moved(target, by=2):
    """The truth moved to the side: a prediction whose quality depends on every image."""
    ids = target["panoptic"].ids.roll(by, dims=1)
    present = set(ids.unique().tolist())
    segments = [Segment(s.id, s.label) for s in target["panoptic"].segments if s.id in present]
    scores = torch.ones(len(target["labels"]))
    return Prediction(
        Detections(target["boxes"], scores, target["labels"], target["masks"].roll(by, dims=2)),
        target["semantic"].roll(by, dims=1),
        Panoptic(ids, segments),
    )


def model_of(dataset, answer=moved):
    return Answers(dataset.categories, {i.numpy().tobytes(): answer(t) for i, t in dataset})


@pytest.fixture(scope="module")
def shapes():
    return Shapes("val", 4, size=64)


@pytest.fixture
def cli(shapes, tmp_path, monkeypatch):
    """A COCO folder with the truth, and ``model`` as what any model's name loads."""
    export_coco(shapes, tmp_path / "coco")
    model = model_of(shapes)
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: model)
    return {"model": "m", "data": f"coco_panoptic:{tmp_path / 'coco'}"}


def test_written_predictions_measure_as_in_memory(shapes, cli, tmp_path, capsys):
    out = tmp_path / "out"
    predict_command(panoptic=True, out=out, limit=3, **cli)
    assert "3 panoptic maps made now" in capsys.readouterr().out
    assert len(list((out / "panoptic_val").iterdir())) == 3
    Answers.asked = 0
    predict_command(panoptic=True, out=out, split="val", **cli)  # goes on with the fourth
    assert Answers.asked == 1
    predict_command(panoptic=True, out=out, **cli)
    assert Answers.asked == 1
    assert "0 panoptic maps made now" in capsys.readouterr().out
    truth = tmp_path / "coco" / "annotations" / "panoptic_val.json"
    from_files = evaluate_files(truth, out / "panoptic_val.json", workers=1)
    in_memory = evaluate(model_of(shapes), shapes, progress=False).panoptic
    assert 0.2 < in_memory.all.pq < 0.99
    assert from_files == in_memory


@pytest.mark.usefixtures("panopticapi")
def test_panopticapi_takes_the_files_and_finds_the_same_quality(shapes, cli, tmp_path):
    from panopticapi.evaluation import pq_compute

    predict_command(panoptic=True, out=tmp_path / "out", **cli)
    truth = tmp_path / "coco" / "annotations" / "panoptic_val.json"
    result = pq_compute(str(truth), str(tmp_path / "out" / "panoptic_val.json"))
    mine = evaluate(model_of(shapes), shapes, progress=False).panoptic
    for name in ("all", "things", "stuff"):
        mean, theirs = getattr(mine, name), result[name.capitalize()]
        assert mean.n == theirs["n"]
        for key in ("pq", "sq", "rq"):
            assert getattr(mean, key) == pytest.approx(float(theirs[key]), abs=1e-12)


def test_ctrl_c_keeps_what_was_made(shapes, cli, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            "labkit.datasets.registry.open_dataset", lambda name, split: Stopped(split, 4, 64)
        )
        with pytest.raises(typer.Exit) as stopped:
            predict_command(panoptic=True, out=out, **cli)
    assert stopped.value.exit_code == 130
    assert f"run the same command again to resume from {out}" in capsys.readouterr().err
    assert not (out / "panoptic_val.json").exists()
    Answers.asked = 0
    predict_command(panoptic=True, out=out, **cli)
    assert Answers.asked == 2
    assert len(json.loads((out / "panoptic_val.json").read_bytes())["annotations"]) == 4


def test_a_folder_of_another_run_is_refused(shapes, tmp_path):
    model = model_of(shapes)
    predict_panoptic(model, shapes, tmp_path, **NAMES, progress=False)
    with pytest.raises(LabkitError, match=r"another run \(data was d, is e\)"):
        predict_panoptic(model, shapes, tmp_path, **{**NAMES, "data_name": "e"})
    with pytest.raises(LabkitError, match=r"another run \(images of val was 4, is 5\)"):
        predict_panoptic(model, Shapes("val", 5, size=64), tmp_path, **NAMES)
    torch.nn.init.ones_(model.weight)  # the same name, but trained on
    with pytest.raises(LabkitError, match=r"another run \(weights was \w{16}, is \w{16}\)"):
        predict_panoptic(model, shapes, tmp_path, **NAMES)


def test_fingerprints_differ_with_weights_and_settings():
    def tiny(preset):
        torch.manual_seed(0)
        return build(preset, Shapes.categories)

    one = fingerprint(tiny("mask_rcnn_tiny"))
    assert one == fingerprint(tiny("mask_rcnn_tiny"))
    assert one != fingerprint(tiny("mask_rcnn_tiny_c4"))
    model = tiny("mask_rcnn_tiny")
    with torch.no_grad():
        model.rpn.conv.weight[0, 0, 0, 0] += 1e-3
    assert one != fingerprint(model)


def test_models_without_panoptic_maps_are_refused_at_once(shapes, cli, tmp_path, monkeypatch):
    model = model_of(shapes, lambda target: Prediction(semantic=target["semantic"]))
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: model)
    Answers.asked = 0
    with pytest.raises(LabkitError, match="m: this model makes no panoptic maps; take one that"):
        predict_command(panoptic=True, out=tmp_path / "out", **cli)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    with pytest.raises(LabkitError, match=r"this model makes no panoptic maps; .*--panoptic"):
        eval_command(panoptic=True, **cli)
    assert Answers.asked == 2
    with pytest.raises(LabkitError, match="this data set has no panoptic maps to compare with"):
        evaluate(model_of(shapes), _Objects(shapes), need_panoptic=True, progress=False)


class _Objects:
    def __init__(self, dataset):
        self.dataset, self.categories = dataset, dataset.categories

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, target = self.dataset[index]
        return image, {k: target[k] for k in ("image_id", "boxes", "labels", "masks")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name images, or a data set: --data NAME"),
        ({"images": ["a.png"], "limit": 3}, "--limit is for a data set: add --data"),
        ({"panoptic": True}, "name images, or a data set: --data NAME"),
        ({"panoptic": True, "limit": 3, "images": ["a.png"]}, "--limit is for a data set"),
        ({"panoptic": True, "data": "shapes", "overwrite": True}, "--overwrite is for images"),
        (
            {"panoptic": True, "images": ["a.png"], "data": "shapes"},
            "either images or a data set",
        ),
        ({"panoptic": True, "data": "shapes", "score": 0.3}, "--score is for drawings"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, message, tmp_path):
    with pytest.raises(LabkitError, match=message):
        predict_command(model="m", out=tmp_path / "out", **arguments)


def rows_of(printed):
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in printed.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_eval_prints_one_table(shapes, cli, tmp_path, capsys):
    eval_command(panoptic=True, json=tmp_path / "x.json", **cli)
    printed = capsys.readouterr().out
    result = evaluate(model_of(shapes), shapes, progress=False)
    iou = torch.tensor(result.semantic.iou, dtype=torch.float64)

    def cells(mean, miou, *ap):
        values = [mean.pq, mean.sq, mean.rq, float(miou)]
        return [f"{100 * v:.1f}" for v in values + [a.ap for a in ap]] + ["-"] * (2 - len(ap))

    assert printed.count("┏") == 1
    header = next(line for line in printed.splitlines() if "PQ" in line)
    assert [cell.strip() for cell in header.split("┃")[2:-1]] == [
        "PQ", "SQ", "RQ", "mIoU", "box AP", "mask AP",
    ]  # fmt: skip
    rows = rows_of(printed)
    quality, ap = result.panoptic, result.detection
    assert rows["All"] == cells(quality.all, result.semantic.miou)
    assert rows["Things"] == cells(quality.things, iou[:3].nanmean(), ap.bbox, ap.segm)
    assert rows["Stuff"] == cells(quality.stuff, iou[3:].nanmean())
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["panoptic"]["all"]["pq"] == quality.all.pq
    assert written["semantic"]["miou"] == result.semantic.miou
    assert written["detection"]["segm"]["ap"] == ap.segm.ap
    eval_command(**cli)  # everything: the same table, then AP and the semantic metrics in detail
    everything = capsys.readouterr().out
    assert everything.count("┏") == 3
    assert rows_of(everything)["All"] == rows["All"]


# A few pixels by hand: what a data set or an answer may lack.

STUFF_ONLY = Categories([Category(1, "sky", False), Category(2, "sea", False)])
THINGS_ONLY = Categories([Category(1, "cat", True), Category(2, "dog", True)])
BOTH = Categories([Category(1, "cat", True), Category(2, "sky", False)])


class Images:
    """Images of different colours with panoptic truth."""

    def __init__(self, categories, maps):
        self.categories, self.maps = categories, maps

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError
        truth = self.maps[index]
        image = torch.full((3, *truth.ids.shape), index, dtype=torch.uint8)
        return image, target_from_panoptic(truth, self.categories, f"image {index}")


def panoptic(rows, labels):
    ids = torch.tensor(rows, dtype=torch.int32)
    return Panoptic(ids, [Segment(i, label) for i, label in labels.items()])


def truth_itself(target):
    return moved(target, by=0)


def nothing(target):
    """No detections, every pixel undecided."""
    height, width = target["panoptic"].ids.shape
    none = Detections(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, height, width, dtype=torch.bool),
    )  # fmt: skip
    return Prediction(
        none,
        torch.full((height, width), IGNORE),
        Panoptic(torch.zeros(height, width, dtype=torch.int32), []),
    )


TWO = [[1, 1, 2, 2], [1, 1, 2, 2]]
CASES = {
    # categories, maps, answer, rows of the table
    "only stuff": (STUFF_ONLY, [panoptic(TWO, {1: 0, 2: 1})], truth_itself,
                   ["100.0 100.0 100.0 100.0 - -", "- - - - - -", "100.0 100.0 100.0 100.0 - -"]),
    "no stuff": (THINGS_ONLY, [panoptic(TWO, {1: 0, 2: 0})], truth_itself,
                 ["100.0 100.0 100.0 100.0 - -", "100.0 100.0 100.0 100.0 100.0 100.0",
                  "- - - - - -"]),
    "only things in the image": (BOTH, [panoptic(TWO, {1: 0, 2: 0})], truth_itself,
                                 ["100.0 100.0 100.0 100.0 - -",
                                  "100.0 100.0 100.0 100.0 100.0 100.0", "- - - - - -"]),
    "all void": (BOTH, [panoptic([[0, 0]], {})] * 2, nothing,
                 ["- - - - - -", "- - - - - -", "- - - - - -"]),
    "all void, things found": (
        BOTH, [panoptic([[0, 0]], {})],
        lambda target: Prediction(nothing(target).detections, torch.zeros(1, 2, dtype=torch.int64),
                                  panoptic([[1, 1]], {1: 0})),
        ["- - - - - -", "- - - - - -", "- - - - - -"]),
    "nothing found": (BOTH, [panoptic(TWO, {1: 0, 2: 1}), panoptic([[0, 0]], {})], nothing,
                      ["0.0 0.0 0.0 0.0 - -", "0.0 0.0 0.0 0.0 0.0 0.0", "0.0 0.0 0.0 0.0 - -"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_small_cases(name, tmp_path, capsys, monkeypatch):
    categories, maps, answer, table = CASES[name]
    dataset = Images(categories, maps)
    monkeypatch.setattr("labkit.datasets.registry.open_dataset", lambda name, split: dataset)
    model = model_of(dataset, answer)
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: model)
    eval_command("m", data="x", panoptic=True)
    rows = rows_of(capsys.readouterr().out)
    assert [rows[group] for group in ("All", "Things", "Stuff")] == [r.split() for r in table]
    eval_command("m", data="x", json=tmp_path / "x.json")  # the detailed tables print too
    predict_command(panoptic=True, model="m", data="x", out=tmp_path / "out")
    content = read_json(tmp_path / "out" / "panoptic_val.json", {c.id for c in categories})
    for annotation, (_, target) in zip(content["annotations"], dataset, strict=True):
        png = tmp_path / "out" / "panoptic_val" / annotation["file_name"]
        back = to_panoptic(annotation, read_png(png), categories, str(png))
        assert torch.equal(back.ids, answer(target).panoptic.ids)
        assert back.segments == answer(target).panoptic.segments


def test_models_with_other_categories_are_refused(shapes):
    model = model_of(shapes, lambda target: Prediction(panoptic=moved(target).panoptic))
    model.categories = Categories([*list(shapes.categories)[:-1], Category(7, "snow", False)])
    with pytest.raises(LabkitError, match="the model knows Categories"):
        evaluate(model, shapes, progress=False)


def test_panoptic_fpn(tmp_path, capsys, monkeypatch):
    """The real model, untrained: whatever it paints, files and memory agree."""
    torch.manual_seed(0)
    shapes = Shapes("val", 2)
    model = build("panoptic_fpn_tiny", shapes.categories).eval()
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: model)
    predict_command(panoptic=True, model="m", data="shapes", limit=2, out=tmp_path / "out")
    eval_command("m", data="shapes", limit=2, panoptic=True)
    assert "All" in rows_of(capsys.readouterr().out)
    export_coco(shapes, tmp_path / "truth")
    from_files = evaluate_files(
        tmp_path / "truth" / "annotations" / "panoptic_val.json",
        tmp_path / "out" / "panoptic_val.json",
        workers=1,
    )
    assert repr(from_files) == repr(evaluate(model, shapes, progress=False).panoptic)


def measure_and_write(folder):
    """What the processes of torchrun share in the next test."""
    shapes = Shapes("val", 3, size=64)
    model = model_of(shapes)
    with process_group(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.engine.predictor.load_model", lambda *_: model)
        patch.setattr("labkit.datasets.registry.open_dataset", lambda name, split: shapes)
        predict_command(panoptic=True, model="m", data="d", out=folder / "out")
        eval_command("m", data="d", panoptic=True, json=folder / "result.json")


def test_torchrun_shares_the_images(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(29900 + os.getpid() % 90), __file__, str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    measure_and_write(tmp_path / "one")
    for path in ("result.json", "out/panoptic_val.json"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    made = [
        sum("annotation" in json.loads(line) for line in path.read_text().splitlines())
        for path in sorted((tmp_path / "two" / "out").glob("*.jsonl"))
    ]
    assert made == [2, 1]


if __name__ == "__main__":
    measure_and_write(Path(sys.argv[1]))
