"""``labkit data``: masks to annotations, findings, contact sheets, as a user sees them."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from labkit.cli.commands import app
from labkit.errors import LabkitError

THING = {"name": "cell", "isthing": True, "value": 1}
STUFF = {"name": "ground", "isthing": False, "value": 2}


def _labkit(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()

    def make(entries, *masks):
        (tmp_path / "c.json").write_text(json.dumps(entries))
        for number, mask in enumerate(masks):
            Image.new("RGB", mask.shape[::-1]).save(tmp_path / "images" / f"photo{number}.jpg")
            Image.fromarray(mask).save(tmp_path / "masks" / f"photo{number}.png")
        return ("data", "from-masks", "images", "masks", "--categories", "c.json", "--out", "set")

    return make


def _mask(value):
    mask = np.zeros((20, 20), np.uint8)
    mask[2:12, 3:9] = value
    return mask


@pytest.mark.parametrize(
    ("entries", "split", "says"),
    [
        (
            [THING, STUFF],
            "train",
            "panoptic_fpn_tiny --init panoptic_fpn_tiny --data coco_panoptic:set",
        ),
        ([THING], "train", "labkit train mask_rcnn_tiny --init mask_rcnn_tiny --data coco:set"),
        ([STUFF], "train2", "labkit train fcn8_tiny --data coco_panoptic:set --split train2"),
        ([THING], "val", "labkit data show coco:set --split val"),
    ],
)
def test_the_next_step_fits_the_data(folders, entries, split, says):
    command = folders(entries, _mask(entries[0]["value"]))
    output = _labkit(*command, "--split", split).output
    assert f"wrote 1 image to set; {'train' if 'train' in split else 'look'}" in output
    assert says in output
    assert "unlabelled" not in output or STUFF in entries


@pytest.mark.parametrize(
    ("entries", "sides", "model"),
    [
        ([THING, STUFF], [240], "panoptic_fpn_lite --init imagenet --data coco_panoptic:set"),
        ([THING], [240], "mask_rcnn_lite --init imagenet --data coco:set"),
        ([THING], [200], "mask_rcnn_tiny --init mask_rcnn_tiny"),
        ([THING], [120, 240, 120], "mask_rcnn_tiny --init mask_rcnn_tiny"),  # most are small
        ([THING], [240, 120, 240], "mask_rcnn_lite --init imagenet"),
        ([STUFF], [240], "fcn8_tiny --data"),
    ],
)
def test_photographs_get_the_preset_for_photographs(folders, entries, sides, model):
    masks = []
    for side in sides:
        mask = np.zeros((side, side + 100), np.uint8)  # the shorter side counts
        mask[2:12, 3:9] = entries[0]["value"]
        masks.append(mask)
    assert f"train with: labkit train {model}" in _labkit(*folders(entries, *masks)).output


def test_masks_without_a_class_write_nothing(folders, tmp_path):
    for value, text in ((255, "255 in 60 pixels belongs to no category"), (0, "nothing is")):
        command = folders([THING], _mask(value), _mask(value))
        with pytest.raises(LabkitError, match=rf"{text}.* has cell 1\nnothing was written"):
            _labkit(*command)
        assert not (tmp_path / "set").exists()


def test_numbered_objects_and_suffixes(folders, tmp_path):
    mask = _mask(5)
    mask[15:19, 15:19] = 6
    command = folders([THING], mask)
    (tmp_path / "masks" / "photo0.png").rename(tmp_path / "masks" / "photo0_mask.png")
    _labkit(*command, "--mask-suffix", "_mask", "--instances-of", "cell")
    content = json.loads((tmp_path / "set/annotations/instances_train.json").read_text())
    assert [a["area"] for a in content["annotations"]] == [60, 16]


def test_findings_are_cut_unless_all_are_wanted(folders):
    slips = np.zeros((60, 60), np.uint8)
    slips[::4, ::4] = 1
    command = folders([THING], slips)
    output = _labkit(*command).output
    assert (output.count("tiny: cell"), "and 220 more; --all shows them" in output) == (5, True)
    assert "225 tiny" in output
    checked = _labkit("data", "check", "set", "--all")
    assert checked.output.count("tiny: cell of 1 pixel at") == 225
    assert "set is read as coco_panoptic:set; coco:set is also possible" in checked.output
    assert "coco_panoptic:set, train: 1 image, 1 category" in checked.output


def test_a_contact_sheet_names_files_and_colours_objects(folders, tmp_path, monkeypatch):
    mask = _mask(1)
    mask[14:19, 12:19] = 1
    _labkit(*folders([THING], mask, _mask(1)))
    seen = []
    from labkit import visualize

    original = visualize.panels

    def panels(items, categories, **options):
        seen.append((items, categories, options))
        return original(items, categories, **options)

    monkeypatch.setattr(visualize, "panels", panels)
    _labkit("data", "show", "coco:set", "--out", "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] > 300
    ((items, categories, options),) = seen
    # Names of files, as export writes them: of the images' names.
    assert [title for title, _, _ in items] == ["photo0.png", "photo1.png"]
    texts = [r.text for r in visualize.regions(items[0][2], categories, scores=options["scores"])]
    assert sorted(texts) == ["cell 1", "cell 2"]
    picture = visualize.overlay(items[0][1], items[0][2], categories, by_object=True)
    assert (picture[6, 5] != picture[16, 15]).any()


def test_a_data_set_without_images_is_no_success(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    (tmp_path / "set" / "train").mkdir()
    empty = {"images": [], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (tmp_path / "set" / "annotations" / "instances_train.json").write_text(json.dumps(empty))
    for command in (("check", "set"), ("show", "set", "--out", "x.png")):
        with pytest.raises(LabkitError, match="coco:set, train: the split has no images"):
            _labkit("data", *command)
    with pytest.raises(LabkitError, match="no objects to train on; see `labkit data ch"):
        _labkit("train", "mask_rcnn_tiny", "--data", "set", "--out", "run")
