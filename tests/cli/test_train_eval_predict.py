"""`labkit train`, `eval` and `predict`, as a user chains them, and the folder between them."""

import contextlib
import io
import json
import signal

import numpy as np
import pytest
import torch
import typer
from helpers.command import labkit
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from labkit.checkpoints.run_folder import Run, load_run, read_run, save_run, start_from
from labkit.cli.eval import evaluate as eval_command
from labkit.cli.predict import coco_results
from labkit.cli.predict import predict as predict_command
from labkit.cli.train import train as train_command
from labkit.datasets import registry
from labkit.datasets.coco.export import export_coco
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate, map_labels
from labkit.errors import LabkitError
from labkit.metrics.coco_ap import COCOAP
from labkit.models import build
from labkit.structures import Categories, Category, Detections, Panoptic, Prediction, Segment
from labkit.system.folder_lock import LOCK

SETTINGS = {
    "data": "shapes",
    "steps": 3,
    "batch_size": 2,
    "scale_jitter": (0.5, 2.0),
    "color_jitter": 0.4,
    "eval_every": 2,
    "eval_limit": 1,
}


class Interrupted(Shapes):
    """Ctrl-C while the second step's images are read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == 4:
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders of the same run, one of them interrupted after two steps and gone on with."""
    root = tmp_path_factory.mktemp("runs")
    train_command("mask_rcnn_tiny", out=root / "whole", **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        # The first item is looked at before the training, the others are the batches.
        patch.setattr(registry, "open_dataset", lambda name, split: Interrupted(split, 10_000))
        with pytest.raises(typer.Exit) as stopped:
            train_command("mask_rcnn_tiny", out=root / "parts", **SETTINGS)
    assert stopped.value.exit_code == 130
    assert not (root / "parts" / "model.safetensors").exists()
    half = load_run(root / "parts").state_dict()  # an unfinished run can be measured
    train_command("mask_rcnn_tiny", out=root / "parts", **SETTINGS)
    assert any(
        not torch.equal(a, half[k]) for k, a in load_run(root / "whole").state_dict().items()
    )
    return root


def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(runs):
    whole, parts = load_run(runs / "whole"), load_run(runs / "parts")
    assert whole.categories == parts.categories == Shapes.categories
    assert not whole.training
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_an_interrupted_run_has_the_log_of_a_whole_one(runs):
    for name in ("log.csv", "log.png"):
        assert (runs / "whole" / name).read_bytes() == (runs / "parts" / name).read_bytes()
    lines = (runs / "whole" / "log.csv").read_text().splitlines()
    assert lines[0].startswith("step,lr,loss_rpn_cls")
    assert lines[0].endswith("total,val_mask_AP")
    assert [line.endswith(",") for line in lines[1:]] == [True, False, False]


def test_options_of_augmentation_and_validation_belong_to_the_run(runs, tmp_path):
    settings = read_run(runs / "whole").train
    assert settings["crop"] == 128  # of the data set's images
    assert (settings["scale_jitter"], settings["color_jitter"]) == ([0.5, 2.0], 0.4)
    assert [settings[f"eval_{name}"] for name in ("every", "split", "limit")] == [2, "val", 1]
    for changed, message in (
        ({"scale_jitter": None}, r"\(scale_jitter was \[0\.5, 2\.0\], is None; crop was 128"),
        ({"crop": 64}, r"\(crop was 128, is 64\)"),
        ({"color_jitter": 0.5}, r"\(color_jitter was 0\.4, is 0\.5\)"),
        ({"eval_every": 3}, r"\(eval_every was 2, is 3\)"),
        ({"eval_split": "test"}, r"\(eval_split was val, is test\)"),
    ):
        with pytest.raises(LabkitError, match=message):
            train_command("mask_rcnn_tiny", out=runs / "whole", **{**SETTINGS, **changed})
    for wrong, message in (
        ({"eval_every": None}, "--eval-limit needs --eval-every N"),
        (
            {"eval_split": "vol"},
            r"--eval-every: .*'vol' is not one of .*; name the validation split with --eval-split",
        ),
        ({"scale_jitter": (2.0, 0.5)}, "two scales in"),
    ):
        with pytest.raises(LabkitError, match=message):
            train_command("mask_rcnn_tiny", out=tmp_path / "x", **{**SETTINGS, **wrong})
    with pytest.raises(LabkitError, match=r"'mask_rcnn_tny': did you mean mask_rcnn_tiny\?"):
        train_command("mask_rcnn_tny", out=tmp_path / "x", data="coco:nowhere")
    assert not (tmp_path / "x").exists()


def test_the_folder_says_what_it_holds(runs, tmp_path):
    run = read_run(runs / "whole")
    assert (run.preset, run.data, run.split, run.init) == (
        "mask_rcnn_tiny",
        "shapes",
        "train",
        (),
    )
    assert run.train["steps"] == 3
    assert read_run(runs / "whole" / "model.safetensors") == run
    with pytest.raises(LabkitError, match=r"other settings \(data was shapes, is crowded\)"):
        train_command("mask_rcnn_tiny", out=runs / "whole", **{**SETTINGS, "data": "crowded"})
    with pytest.raises(LabkitError, match=r"lr was 0\.0015, is 0\.1"):
        train_command("mask_rcnn_tiny", out=runs / "whole", lr=0.1, **SETTINGS)
    with pytest.raises(LabkitError, match="not from `labkit train`"):
        load_run(tmp_path)
    save_run(tmp_path, run)
    with pytest.raises(LabkitError, match="no such weights file"):
        load_run(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(LabkitError, match=r"last\.pt: damaged"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"preset": 1}')
    with pytest.raises(LabkitError, match=r"run\.json: damaged"):
        load_run(tmp_path)


def test_eval_prints_and_writes_what_evaluate_returns(runs, tmp_path, capsys):
    eval_command(str(runs / "whole"), limit=3, json=tmp_path / "x.json")
    printed = capsys.readouterr().out
    for text in ("shapes, val: 3 images", "APs", "boxes", "masks", "small: below 7.4², large"):
        assert text in printed
    written = json.loads((tmp_path / "x.json").read_text())
    again = evaluate(load_run(runs / "whole"), Shapes("val", 3), progress=False)
    assert written["detection"]["bbox"]["ap"] == again.detection.bbox.ap
    assert written["images"] == 3
    assert written["semantic"] is None
    with pytest.raises(LabkitError, match="name the data set with --data"):
        eval_command("mask_rcnn_R_50_FPN_3x")


def test_predict_writes_pictures_and_results(runs, tmp_path):
    paths = [tmp_path / "street.png", tmp_path / "000000000139.jpg"]
    for i, path in enumerate(paths):
        image, _ = Shapes("val")[i]
        Image.fromarray(image.permute(1, 2, 0).numpy()[: 100 + i]).convert("L").save(path)
    options = ["--model", runs / "whole", "--out", tmp_path / "found", "--score", "0.3"]
    assert labkit("predict", *paths, *options).returncode == 0
    assert {p.name for p in (tmp_path / "found").iterdir()} == {
        LOCK,
        "street.png",
        "000000000139.png",
        "predictions.json",
    }
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert {row["image_id"] for row in results} == {"street", 139}
    row = next(row for row in results if row["image_id"] == 139)
    assert row["category_name"] in {"square", "circle", "triangle"}
    assert row["category_id"] in {1, 2, 3}
    assert coco_mask.decode(row["segmentation"]).shape == (101, 128)
    assert min(row["bbox"][2:]) > 0
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(LabkitError, match=r"bad\.jpg: .*not an image"):
        predict_command([bad, paths[0]], model=str(runs / "whole"), out=tmp_path / "rest")
    rest = json.loads((tmp_path / "rest" / "predictions.json").read_text())
    assert rest == [row for row in results if row["image_id"] == "street"]
    with pytest.raises(LabkitError, match=r"street\.png and 1 other file: there .*--overwrite"):
        predict_command([paths[0], paths[0]], model=str(runs / "whole"), out=tmp_path / "found")


def test_results_of_a_data_set_carry_its_ids(runs, tmp_path, capsys):
    """Names of files are no ids: pycocotools takes the results as they are."""
    export_coco(Shapes("val", 3), tmp_path / "set")
    path = tmp_path / "set" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    ids = {image["id"]: 70 + k for k, image in enumerate(content["images"])}
    pictures = []
    for image, name in zip(content["images"], ("007.png", "sub/7.png", "x/7.png"), strict=True):
        picture = tmp_path / "set" / "val" / name
        picture.parent.mkdir(exist_ok=True)
        (tmp_path / "set" / "val" / image["file_name"]).rename(picture)
        image.update(id=ids[image["id"]], file_name=name)
        pictures.append(picture)
    for annotation in content["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
    path.write_text(json.dumps(content))
    options = {
        "model": str(runs / "whole"),
        "out": tmp_path / "all",
        "data": f"coco:{path.parents[1]}",
    }
    predict_command(**options)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "all" / "predictions.json").read_text())
    assert f"3 drawings and predictions.json with {len(results)} objects are in" in printed
    drawn = sum(row["score"] >= 0.5 for row in results)
    assert f"; {drawn} of these {'is' if drawn == 1 else 'are'} drawn, from score 0.5 on" in printed
    assert {row["image_id"] for row in results} == {70, 71, 72}
    assert {p.name for p in (tmp_path / "all").glob("*.png")} == {"007.png", "sub_7.png", "x_7.png"}
    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(path)).loadRes(results)
    # Some of its images, by their files.
    predict_command([pictures[1]], **{**options, "out": tmp_path / "one"})
    some = json.loads((tmp_path / "one" / "predictions.json").read_text())
    assert {(row["image_id"], row["file_name"]) for row in some} == {(71, "sub/7.png")}
    with pytest.raises(LabkitError, match=r"is not among the 3 images of this data set"):
        predict_command([tmp_path / "7.png"], **options)
    with pytest.raises(LabkitError, match=r"007\.png and .*7\.png would both be the image 7 in"):
        predict_command(pictures[:2], model=options["model"], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_training_goes_on_from_other_weights(runs, tmp_path):
    torch.manual_seed(1)
    one = Categories([Category(1, "person", True)])
    model = build("mask_rcnn_tiny", one)
    before = model.state_dict()["roi_heads.cls_score.weight"].clone()
    trained = load_run(runs / "whole")
    fresh = start_from(model, trained)
    assert fresh
    assert all("roi_heads" in name for name in fresh)
    assert torch.equal(model.roi_heads.cls_score.weight, before)
    assert torch.equal(model.rpn.conv.weight, trained.rpn.conv.weight)
    with pytest.raises(LabkitError, match="another architecture"):
        start_from(build("fcn8_tiny", one), trained)


def test_a_panoptic_model_starts_from_a_detector(runs):
    trained = load_run(runs / "whole")
    model = build("panoptic_fpn_tiny", trained.categories)
    fresh = start_from(model, trained)
    assert all(name.startswith("sem_seg_head.") for name in fresh)
    assert torch.equal(model.roi_heads.cls_score.weight, trained.roi_heads.cls_score.weight)
    with pytest.raises(LabkitError, match="unknown to this model, such as sem_seg_head"):
        start_from(build("mask_rcnn_tiny", trained.categories), model)


def test_images_are_resized_in_training_and_afterwards(tmp_path):
    train_command(
        "mask_rcnn_tiny", data="shapes", out=tmp_path, steps=1, batch_size=1, short_side=64
    )
    resized = load_run(tmp_path).config.preprocessing
    assert (resized.resize, resized.min_size, resized.max_size) == ("pillow", 64, 107)
    with pytest.raises(LabkitError, match="takes images as they are"):
        Run("fcn8_tiny", Shapes.categories, "shapes", "train", 64, (), {}).build()
    with pytest.raises(LabkitError, match=r"short side 2: must be in 16\.\.4096"):
        Run("mask_rcnn_tiny", Shapes.categories, "shapes", "train", 2, (), {}).build()


class Oracle(torch.nn.Module):
    """Returns the truth of Shapes, found again by the pixels of the image."""

    def __init__(self, dataset, categories):
        super().__init__()
        self.categories = categories
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.truth = {image.numpy().tobytes(): target for image, target in dataset}

    def forward(self, images):
        return [self._answer(self.truth[image.numpy().tobytes()]) for image in images]

    def _answer(self, target):
        names = [c.id for c in self.categories]
        labels = torch.tensor([names.index(k + 1) for k in target["labels"]], dtype=torch.int64)
        scores = torch.ones(len(labels))
        segments = [Segment(s.id, s.label) for s in target["panoptic"].segments]
        return Prediction(
            Detections(target["boxes"], scores, labels, target["masks"]),
            target["semantic"],
            Panoptic(target["panoptic"].ids, segments),
        )


def test_the_truth_itself_measures_one_everywhere(tmp_path):
    shapes = Shapes("val", 5, size=64)
    result = evaluate(Oracle(shapes, shapes.categories), shapes, progress=False)
    assert result.detection.bbox.ap == pytest.approx(1)
    assert result.detection.segm.ap == pytest.approx(1)
    assert result.detection.segm.medium == pytest.approx(1)
    assert result.semantic.miou == pytest.approx(1)
    assert result.panoptic.all.pq == pytest.approx(1)
    # A COCO folder has objects only, and the model's classes stand in another order.
    export_coco(shapes, tmp_path / "coco")
    things = [Category(9, "star", True), *list(Shapes.categories)[:3][::-1]]
    model = Oracle(shapes, Categories(things))
    result = evaluate(
        model, registry.open_dataset(f"coco:{tmp_path / 'coco'}", "val"), progress=False
    )
    assert result.detection.segm.per_class == pytest.approx((1, 1, 1))
    assert (result.semantic, result.panoptic) == (None, None)


def test_equals_pycocotools_on_the_files_themselves(tmp_path):
    """Crowds, polygons' areas and fractional boxes of a file count as the file says."""
    shapes = Shapes("val", 6, size=64, crowded=True)
    export_coco(shapes, tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    for i, annotation in enumerate(truth["annotations"]):
        annotation["iscrowd"] = int(i % 5 == 0)
        annotation["bbox"][2] += 0.5
        annotation["area"] = 1500.0 if i % 3 else annotation["area"]
    path.write_text(json.dumps(truth))
    data = registry.open_dataset(f"coco:{tmp_path / 'coco'}", "val")
    metric, results = COCOAP(data.categories), []
    for i, ((_, target), (_, whole)) in enumerate(zip(data, shapes, strict=True)):
        masks = whole["masks"].roll((1, 1), dims=(1, 2))
        scores = 1 / (1 + torch.arange(len(masks)) % 4)
        found = Detections(whole["boxes"] + 0.75, scores, whole["labels"], masks)
        metric.update(Prediction(found), target, data.annotations(i))
        results += coco_results(found, target["image_id"], "x.png", data.categories)
    mine = metric.compute()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        for kind, result in (("bbox", mine.bbox), ("segm", mine.segm)):
            rows = [{k: v for k, v in r.items() if k != "bbox" or kind == "bbox"} for r in results]
            official = COCOeval(coco, coco.loadRes(rows), kind)
            official.evaluate()
            official.accumulate()
            official.summarize()
            numbers = [result.ap, result.ap50, result.ap75, result.small, result.medium]
            assert numbers == pytest.approx(official.stats[:5], abs=1e-12)
            assert 0 < result.small < 1
            assert 0 < result.medium < 1
            assert np.isnan(result.large)
            assert official.stats[5] == -1


def test_what_cannot_be_measured_is_refused():
    shapes = Shapes("val", 1, size=64)
    people = Categories([Category(1, "pedestrian", True)])
    with pytest.raises(LabkitError, match="the class 1 pedestrian; the model knows 1 is square"):
        map_labels(Shapes.categories, people)
    # Stuff with the id of one of the model's things is not that thing.
    ground = Categories([Category(1, "ground", False)])
    assert map_labels(Shapes.categories, ground).tolist() == [-1, -1, -1]
    with pytest.raises(LabkitError, match="no images"):
        evaluate(Oracle(shapes, shapes.categories), Shapes("val", 0))
    renamed = [Category(c.id, c.name if c.isthing else "x", c.isthing) for c in Shapes.categories]
    with pytest.raises(LabkitError, match="the model knows Categories"):
        evaluate(Oracle(shapes, Categories(renamed)), shapes, progress=False)


def test_semantic_models_train_and_are_measured_too(tmp_path, capsys):
    train_command("fcn32_tiny", data="shapes", out=tmp_path / "run", steps=1, batch_size=2)
    eval_command(str(tmp_path / "run"), limit=2)
    assert "mIoU" in capsys.readouterr().out
    export_coco(Shapes("val", 1), tmp_path / "coco")
    with pytest.raises(LabkitError, match="has objects only; fcn32_tiny needs semantic labels"):
        train_command(
            "fcn32_tiny", data=f"coco:{tmp_path / 'coco'}", out=tmp_path / "x", split="val"
        )
    path = tmp_path / "coco" / "annotations" / "instances_val.json"
    empty = {**json.loads(path.read_text()), "annotations": [], "categories": []}
    path.write_text(json.dumps(empty))
    with pytest.raises(LabkitError, match="none of them is a thing"):
        train_command(
            "mask_rcnn_tiny", data=f"coco:{tmp_path / 'coco'}", out=tmp_path / "x", split="val"
        )
    assert not (tmp_path / "x").exists()
    assert np.isfinite(evaluate(load_run(tmp_path / "run"), Shapes("val", 2)).semantic.miou)
