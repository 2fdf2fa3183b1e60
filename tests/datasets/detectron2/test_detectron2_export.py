"""What `labkit export-detectron2` writes: counts by hand; Detectron2 itself where it is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from labkit.datasets.coco.export import export_coco
from labkit.datasets.detectron2.export import export_detectron2
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError

WEIGHTS = "weights.pkl"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for split, num in (("train", 12), ("val", 3)):
        export_coco(Shapes("train", num), folder / split, split=split)
    merged = folder / "both"
    (merged / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / split / split).rename(merged / split)
        for path in (folder / split / "annotations").iterdir():
            path.rename(merged / "annotations" / path.name)
    return merged


def test_both_heads_have_the_classes_of_the_data(root: Path, tmp_path: Path) -> None:
    config = export_detectron2(root, tmp_path / "out", "panoptic", weights=WEIGHTS)
    assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 3  # square, circle, triangle
    assert config["MODEL"]["SEM_SEG_HEAD"]["NUM_CLASSES"] == 5  # things; sky, grass, water, sand
    assert (
        config["MODEL"]["PANOPTIC_FPN"]["COMBINE"]["STUFF_AREA_LIMIT"] == 218
    )  # 4096 * 128² / (480 * 640)
    assert config["INPUT"]["MASK_FORMAT"] == "bitmask"  # run-length codes
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()) == config


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_rate_and_steps_follow_the_batch_size(root: Path, tmp_path: Path, batch: int) -> None:
    config = export_detectron2(
        root, tmp_path / "out", "panoptic", weights=WEIGHTS, batch_size=batch, epochs=12
    )
    solver = config["SOLVER"]
    assert solver["BASE_LR"] == pytest.approx(0.02 * batch / 16)
    assert solver["MAX_ITER"] == 12 * 12 // batch
    assert solver["STEPS"] == sorted(
        {round(7 / 9 * solver["MAX_ITER"]), round(25 / 27 * solver["MAX_ITER"])}
    )


def test_semantic_pngs_are_the_panoptic_map(root: Path, tmp_path: Path) -> None:
    dataset = Shapes("train", 12)
    for task in ("panoptic", "semantic"):
        export_detectron2(root, tmp_path / task, task, weights=WEIGHTS)
        for index in range(3):
            path = tmp_path / task / "semantic" / "train" / f"{index:012d}.png"
            written = np.asarray(Image.open(path)).astype(int)
            truth = dataset[index][1]["semantic"].numpy()
            # Labels 0, 1, 2 are things; stuff begins at 3.
            wanted = truth if task == "semantic" else np.where(truth < 3, 0, truth - 2)
            assert np.array_equal(written, np.where(truth == 255, 255, wanted))


def test_paths_are_relative_so_that_folders_can_move(root: Path, tmp_path: Path) -> None:
    out = root.parent / "exported" / "out"
    export_detectron2(root, out, "panoptic", "train", "val", weights=WEIGHTS)
    splits = json.loads((out / "dataset.json").read_text())["splits"]
    assert splits["val"] == {
        "instances": "../../both/annotations/instances_val.json",
        "panoptic": "../../both/annotations/panoptic_val.json",
        "pngs": "../../both/annotations/panoptic_val",
        "images": "../../both/val",
    }
    for files in splits.values():
        assert all((out / path).exists() for path in files.values())


def test_annotations_of_a_picture_as_stored_are_refused(tmp_path: Path) -> None:
    """Detectron2 turns pictures upright and stops at another size, hours later."""
    exif = Image.Exif()
    exif[0x0112] = 6
    export_coco(Shapes("train", 1), tmp_path / "set", split="train")
    (picture,) = (tmp_path / "set" / "train").iterdir()
    Image.new("RGB", (128, 64)).save(picture, exif=exif)
    path = tmp_path / "set" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][0]["height"] = 64
    path.write_text(json.dumps(content))
    with pytest.raises(LabkitError, match="EXIF orientation is 6"):
        export_detectron2(tmp_path / "set", tmp_path / "out", "instance", weights=WEIGHTS)


def test_instance_task_has_one_head(root: Path, tmp_path: Path) -> None:
    config = export_detectron2(root, tmp_path / "out", "instance", "train", "val", weights=WEIGHTS)
    assert "SEM_SEG_HEAD" not in config["MODEL"]
    assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 3
    assert config["DATASETS"] == {"TRAIN": ["both_train"], "TEST": ["both_val"]}
    assert not (tmp_path / "out" / "semantic").exists()


def test_polygons_are_said_to_be_polygons(tmp_path: Path) -> None:
    export_coco(Shapes("train", 2), tmp_path / "data", split="train", polygons=True)
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        a for a in content["annotations"] if isinstance(a["segmentation"], list)
    ]
    path.write_text(json.dumps(content))
    config = export_detectron2(tmp_path / "data", tmp_path / "out", "instance", weights=WEIGHTS)
    assert config["INPUT"]["MASK_FORMAT"] == "polygon"


def test_annotations_of_other_images_are_refused(root: Path, tmp_path: Path) -> None:
    export_coco(Shapes("train", 2), tmp_path / "data", split="train")
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    gone = content["images"].pop()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone["id"]]
    path.write_text(json.dumps(content))
    with pytest.raises(LabkitError, match=r"instances_train\.json: its images are not those"):
        export_detectron2(tmp_path / "data", tmp_path / "out", "panoptic", weights=WEIGHTS)
    assert not (tmp_path / "out").exists()


def test_splits_with_other_categories_are_refused(root: Path, tmp_path: Path) -> None:
    export_coco(Shapes("train", 2), tmp_path / "data", split="train")
    annotations = tmp_path / "data" / "annotations"
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "val")
    for kind in ("instances", "panoptic"):
        content = json.loads((annotations / f"{kind}_train.json").read_text())
        content["categories"][0]["name"] = "cube"
        (annotations / f"{kind}_val.json").write_text(json.dumps(content))
        (annotations / f"{kind}_train.json").unlink()
    (annotations / "panoptic_train").rename(annotations / "panoptic_val")
    for path in [*(root / "annotations").glob("*_train.json"), root / "annotations/panoptic_train"]:
        (annotations / path.name).symlink_to(path)
    (tmp_path / "data" / "train").symlink_to(root / "train")
    with pytest.raises(LabkitError, match="the categories of 'val' differ from those of 'train'"):
        export_detectron2(
            tmp_path / "data", tmp_path / "out", "panoptic", "train", "val", weights=WEIGHTS
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes"], "'shapes' is neither coco_panoptic:DIR nor coco:DIR"),
        (["coco:{root}", "--semantic"], "--semantic needs coco_panoptic:DIR"),
        (["coco_panoptic:{root}", "--depth", "18"], "--depth 18: Detectron2's model zoo has 50"),
        (["coco_panoptic:{root}", "--split", "test"], "no split 'test'; it has train, val"),
        (["coco_panoptic:{root}", "--batch-size", "0"], "batch size 0"),
    ],
)
def test_wrong_input_is_named(
    root: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    from typer.testing import CliRunner

    from labkit.cli.commands import app

    command = ["export-detectron2", *(a.format(root=root) for a in arguments)]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, LabkitError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("detectron2")
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_detectron2_trains_with_it(root: Path, tmp_path: Path, task: str) -> None:
    out = tmp_path / "out"
    export_detectron2(root, out, task, "train", "val", weights="", batch_size=2)  # type: ignore[arg-type]
    small = {
        "SOLVER.MAX_ITER": "2",
        "SOLVER.STEPS": "(1,)",
        "INPUT.MIN_SIZE_TRAIN": "(128,)",
        "INPUT.MIN_SIZE_TEST": "128",
        "DATALOADER.NUM_WORKERS": "0",
    }
    changes = [word for pair in small.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "train.py", *changes], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = [json.loads(line) for line in (out / "output" / "metrics.json").open()]
    losses = [row["total_loss"] for row in metrics if "total_loss" in row]
    assert losses
    assert np.isfinite(losses).all()
    measured = set().union(*metrics)
    assert ("sem_seg/mIoU" in measured) == (task != "instance")
    assert ("bbox/AP" in measured) == (task != "semantic")
