"""The weights that come with labkit: whole, small, and as good as their record says."""

import itertools
import shlex

import pytest
import torch
from safetensors import safe_open

from labkit.checkpoints.shipped import FOLDER, shipped
from labkit.datasets.registry import open_dataset
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.predictor import Predictor, load_model
from labkit.models import PRESETS
from labkit.system.paths import find_data

OWN = shipped()


def test_each_file_has_a_record_and_each_record_a_file():
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(OWN)
    assert {each.preset for each in OWN.values()} <= set(PRESETS)


@pytest.mark.parametrize("name", OWN)
def test_a_file_is_small_and_of_float16(name):
    limit = {"shapes": 4_000_000, "penn_fudan": 10_000_000}[OWN[name].data]
    assert OWN[name].path.stat().st_size <= limit
    with safe_open(OWN[name].path, "pt") as file:
        assert all(file.get_slice(key).get_dtype() == "F16" for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("name", OWN)
def test_the_commands_are_complete(name):
    """Each begins from weights that an earlier one makes, and none is left over."""
    words = [shlex.split(command) for command in OWN[name].commands]
    assert words[-1][:3] == ["labkit", "train", OWN[name].preset]
    made: set[str] = set()
    unused: set[str] = set()
    for command in words:
        inits = {b.partition(":")[0] for a, b in itertools.pairwise(command) if a == "--init"}
        assert inits - {"imagenet"} <= made
        unused -= inits
        assert command[2] not in unused, "the weights of the time before are not used"
        made.add(command[2])
        unused.add(command[2])
    assert unused == {OWN[name].preset}


@pytest.mark.parametrize("name", OWN)
def test_it_still_reaches_its_metrics(name):
    """On the first 100 images, to one percent: another processor rounds otherwise."""
    images, expected = Shapes("val", 100), OWN[name].first_100
    if OWN[name].data == "penn_fudan":
        if find_data("PennFudanPed") is None:
            pytest.skip("needs PennFudanPed in FOLDER: LABKIT_DATA=FOLDER uv run pytest")
        images, expected = open_dataset("penn_fudan", "val"), OWN[name].metrics
    result = evaluate(load_model(name), images, progress=False)
    found = {"box AP": result.detection.bbox.ap}
    if result.detection.segm is not None:
        found["mask AP"] = result.detection.segm.ap
    if result.panoptic is not None:
        found |= {
            "PQ": result.panoptic.all.pq,
            "PQ things": result.panoptic.things.pq,
            "PQ stuff": result.panoptic.stuff.pq,
            "mIoU": result.semantic.miou,
        }
    assert {k: 100 * v for k, v in found.items()} == pytest.approx(expected, abs=1.0)


def test_the_readme_says_what_the_record_says():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for each in OWN.values():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{each.name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        assert {str(value) for value in each.metrics.values()} <= set(cells)
        assert str(each.seconds) in cells
        assert all(f"\n{command}\n" in text for command in each.commands)


def test_by_name():
    image, target = Shapes("val")[0]
    with torch.no_grad():
        found = Predictor("mask_rcnn_tiny")(image).detections
    assert (found.scores > 0.9).sum() >= len(target["labels"]) / 2
