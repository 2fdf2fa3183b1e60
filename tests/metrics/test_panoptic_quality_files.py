from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import labkit
from helpers.paths import GOLDEN
from PIL import Image

from labkit.datasets.coco import compiled_maps
from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png, to_panoptic
from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import PanopticResult
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.panoptic_quality_files import evaluate_files
from labkit.structures import Categories

MAKE = runpy.run_path(str(GOLDEN / "make_panoptic_quality.py"))
NUMBERS = json.loads((GOLDEN / "panoptic_quality.json").read_text())
SAMPLE = Path(os.environ.get("LABKIT_DATA", "/nonexistent")) / "coco_panoptic_sample"

needs_sample = pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason="needs coco_panoptic_sample in FOLDER: LABKIT_DATA=FOLDER uv run pytest",
)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    MAKE["random_case"](tmp_path, seed=1)
    return tmp_path


def assert_equals_golden(result: PanopticResult, golden: dict[str, Any]) -> None:
    counts = {str(c.category_id): [c.iou_sum, c.tp, c.fp, c.fn] for c in result.per_class}
    counts = {id: row for id, row in counts.items() if any(row)}
    assert counts.keys() == golden["counts"].keys()
    for id, row in counts.items():
        np.testing.assert_allclose(row, golden["counts"][id], rtol=0, atol=1e-12)
    for group in ("all", "things", "stuff"):
        mean, expected = getattr(result, group), golden[group]
        assert mean.n == expected["n"]
        for key in ("pq", "sq", "rq"):
            assert getattr(mean, key) == pytest.approx(expected[key], rel=0, abs=1e-12)


@pytest.mark.parametrize("seed", MAKE["SEEDS"])
def test_random_cases_equal_panopticapi(tmp_path: Path, seed: int) -> None:
    MAKE["random_case"](tmp_path, seed)
    result = evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")
    assert_equals_golden(result, NUMBERS["random"][str(seed)])


@pytest.mark.parametrize("seed", MAKE["SEEDS"])
def test_compiled_functions_change_no_digit(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKE["random_case"](tmp_path, seed)
    readable = evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")
    monkeypatch.setattr("labkit.metrics.panoptic_quality_files.WORTH_COMPILING", 1)
    monkeypatch.setattr(compiled_maps, "_library", None)
    compiled_maps.load.cache_clear()
    compiled = evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")
    assert compiled_maps._library is not None
    assert repr(compiled) == repr(readable)
    assert_equals_golden(compiled, NUMBERS["random"][str(seed)])


@needs_sample
@pytest.mark.parametrize("name", MAKE["PERTURBATIONS"])
def test_real_annotations_equal_panopticapi(tmp_path: Path, name: str) -> None:
    MAKE["sample_case"](tmp_path, SAMPLE, name)
    result = evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")
    assert_equals_golden(result, NUMBERS["sample"][name])


@pytest.mark.usefixtures("panopticapi")
def test_equals_panopticapi_run_here(tmp_path: Path) -> None:
    MAKE["random_case"](tmp_path, seed=12345)
    result = evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")
    assert_equals_golden(result, MAKE["run_panopticapi"](tmp_path))


@needs_sample
def test_tensors_equal_files_on_real_annotations(tmp_path: Path) -> None:
    MAKE["sample_case"](tmp_path, SAMPLE, "rename_every_third")
    gt, pred = (read_json(tmp_path / f"{name}.json") for name in ("gt", "pred"))
    categories = Categories.from_coco(gt["categories"])
    metric = PanopticQuality(categories)
    for target, prediction in zip(gt["annotations"], pred["annotations"], strict=True):
        metric.update(
            *(
                to_panoptic(a, read_png(tmp_path / side / a["file_name"]), categories, side)
                for side, a in (("pred", prediction), ("gt", target))
            )
        )
    assert_equals_golden(metric.compute(), NUMBERS["sample"]["rename_every_third"])


def test_result_does_not_depend_on_the_number_of_threads(case: Path) -> None:
    one, two = (
        evaluate_files(case / "gt.json", case / "pred.json", workers=workers) for workers in (1, 2)
    )
    assert repr(one) == repr(two)  # repr: nan equals nan, and every digit counts


def test_folders_may_be_elsewhere(case: Path) -> None:
    expected = repr(evaluate_files(case / "gt.json", case / "pred.json"))
    (case / "gt").rename(case / "truth")
    (case / "pred").rename(case / "mine")
    result = evaluate_files(case / "gt.json", case / "pred.json", case / "truth", case / "mine")
    assert repr(result) == expected
    with pytest.raises(LabkitError, match=r"gt: no such folder of ground truth PNGs; .* --gt-dir"):
        evaluate_files(case / "gt.json", case / "pred.json")


def test_predictions_of_other_images_are_ignored(case: Path) -> None:
    expected = repr(evaluate_files(case / "gt.json", case / "pred.json"))

    def add(data: dict[str, Any]) -> None:
        data["annotations"].append({"image_id": 99, "file_name": "no.png", "segments_info": []})

    edit(case / "pred.json", add)
    assert repr(evaluate_files(case / "gt.json", case / "pred.json")) == expected


def test_file_evaluation_does_without_torch() -> None:
    code = (
        "import sys, labkit.cli, labkit.metrics.panoptic_quality_files;"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Bad input: one message that names file, image and field, whoever finds it.


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place; what ``change`` returns, if anything, replaces it."""
    data = json.loads(path.read_text())
    replacement = change(data)
    path.write_text(json.dumps(data if replacement is None else replacement))


def segment(data: dict[str, Any], image: int = 1) -> dict[str, Any]:
    return data["annotations"][image]["segments_info"][0]


def shrink_areas(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        for info in annotation["segments_info"]:
            info["area"] = 1


BAD_JSON: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "segment only in the PNG": (
        "pred",
        lambda d: d["annotations"][1]["segments_info"].clear(),
        r"pred/1\.png \(image 1\): segment \d+ is in the PNG but not in the JSON's segments_info",
    ),
    "true segment only in the PNG": (
        "gt",
        lambda d: d["annotations"][1]["segments_info"].clear(),
        r"gt/1\.png \(image 1\): segment \d+ is in the PNG but not in the JSON's segments_info",
    ),
    "segment only in the JSON": (
        "pred",
        lambda d: d["annotations"][1]["segments_info"].append({"id": 7, "category_id": 3}),
        r"pred/1\.png \(image 1\): segment 7 is in the JSON's segments_info but not in the PNG",
    ),
    "unknown category": (
        "pred",
        lambda d: segment(d).update(category_id=4),
        r'pred\.json: image 1, segment \d+: "category_id" 4 is unknown',
    ),
    "duplicate segment id": (
        "pred",
        lambda d: d["annotations"][1]["segments_info"].append(segment(d)),
        r'pred\.json: image 1, segments_info\[\d+\]: "id" \d+ occurs twice',
    ),
    "duplicate image id": (
        "pred",
        lambda d: d["annotations"].append(d["annotations"][1]),
        r'pred\.json: annotations\[12\]: "image_id" 1 occurs twice',
    ),
    "missing prediction": (
        "pred",
        lambda d: d["annotations"].__delitem__(1),
        r"pred\.json: no prediction for image 1 of .*gt\.json \(1 of 12 images",
    ),
    "missing field": (
        "gt",
        lambda d: segment(d).__delitem__("iscrowd"),
        r'gt\.json: image 1, segment \d+: "iscrowd" is missing; it must be 0 or 1',
    ),
    "area smaller than the pixels": (
        "gt",
        shrink_areas,
        r'gt/\d+\.png \(image \d+\): the "area" of segment \d+ is 1, in the PNG it has \d+ pixels',
    ),
    "area larger than the pixels": (
        "gt",
        lambda d: segment(d).update(area=10 * segment(d)["area"]),
        r"gt/1\.png \(image 1\): .* \(1 of \d+ areas of this image are wrong\); write the number",
    ),
    "text for an id": (
        "pred",
        lambda d: d["annotations"][1].update(image_id="1"),
        r"no prediction for image 1 of .*; it is a number here and the text \"1\" there",
    ),
    "red and blue exchanged": (
        "gt",
        lambda d: (
            [
                info.update(id=(info["id"] & 255) << 16 | info["id"] & 0xFF00 | info["id"] >> 16)
                for info in d["annotations"][1]["segments_info"]
            ]
            and None
        ),
        r"gt/1\.png \(image 1\): segment \d+ is in .*; red and blue look exchanged",
    ),
    "no annotated image": ("gt", lambda d: {**d, "annotations": []}, "no image is annotated"),
    "detection format": (
        "pred",
        lambda d: {**d, "annotations": [{"image_id": 1, "segmentation": [], "bbox": []}]},
        r"pred\.json: a COCO detection file",
    ),
    "other JSON": ("gt", lambda d: {"a": 1}, r'gt\.json: not a panoptic JSON \(no "annotations"\)'),
    "other size in the JSON": (
        "gt",
        lambda d: d["images"][1].update(height=5),
        r"gt/1\.png: the PNG is \d+ x \d+ pixels .*, expected 5 x \d+",
    ),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(case: Path, name: str) -> None:
    side, change, message = BAD_JSON[name]
    edit(case / f"{side}.json", change)
    with pytest.raises(LabkitError, match=message):
        evaluate_files(case / "gt.json", case / "pred.json")


def test_prediction_of_other_size(case: Path) -> None:
    path = case / "pred" / "2.png"
    with Image.open(path) as image:
        larger = image.resize((image.width * 2, image.height), Image.Resampling.NEAREST)
    larger.save(path)
    with pytest.raises(
        LabkitError, match=r"pred/2\.png \(image 2\): is .* pixels .* truth .*gt/2\.png"
    ):
        evaluate_files(case / "gt.json", case / "pred.json")


def test_missing_png(case: Path) -> None:
    (case / "pred" / "4.png").unlink()
    with pytest.raises(LabkitError, match=r"pred/4\.png: cannot read the PNG: No such file"):
        evaluate_files(case / "gt.json", case / "pred.json")


def test_first_bad_image_is_the_one_reported(case: Path) -> None:
    for image in (9, 2, 6):
        path = case / "pred" / f"{image}.png"
        path.write_bytes(path.read_bytes()[:60])
    for workers in (1, 2):
        with pytest.raises(LabkitError, match=r"pred/2\.png: the PNG is truncated"):
            evaluate_files(case / "gt.json", case / "pred.json", workers=workers)


def test_command(case: Path) -> None:
    out = case / "new" / "pq.json"
    done = labkit(
        "pq", "--gt", case / "gt.json", "--pred", case / "pred.json", "--json", out,
        "--workers", "2", "--per-class",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    golden = NUMBERS["random"]["1"]
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    for group in ("all", "things", "stuff"):
        percents = [f"{100 * golden[group][key]:.1f}" for key in ("pq", "sq", "rq")]
        assert [group.capitalize(), *percents, f"{golden[group]['n']:.0f}"] in rows
    assert [c["name"] for c in MAKE["CATEGORIES"] if any(c["name"] in r for r in rows)] == [
        "cat", "sky", "dog", "grass",
    ]  # fmt: skip
    written = json.loads(out.read_text())
    assert written["all"]["pq"] == pytest.approx(golden["all"]["pq"], abs=1e-12)
    assert written["per_class"][-1]["pq"] is None  # the ghost has no quality
    assert [p.name for p in out.parent.iterdir()] == ["pq.json"]


def test_command_with_bad_input(case: Path) -> None:
    path = case / "pred" / "11.png"
    path.write_bytes(path.read_bytes()[:-5])
    out = case / "pq.json"
    done = labkit(
        "pq",
        "--gt",
        case / "gt.json",
        "--pred",
        case / "pred.json",
        "--json",
        out,
        "--workers",
        "2",
    )
    assert done.returncode == 1
    assert f"error: {path}: the PNG is truncated" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert done.stdout == ""


def test_nothing_is_no_result(case: Path) -> None:
    """Maps without a segment have no quality: that is said, not shown as a table of dashes."""

    def clear(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["segments_info"].clear()

    for side in ("gt", "pred"):
        edit(case / f"{side}.json", clear)
        for path in (case / side).iterdir():
            with Image.open(path) as image:
                size = image.size
            Image.new("RGB", size).save(path)
    with pytest.raises(LabkitError, match="neither it nor the predictions have a segment"):
        evaluate_files(case / "gt.json", case / "pred.json", workers=1)
