"""What `labkit data check` finds beside damage: what a file states that its masks deny."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.masks.mask_categories import read_mask_categories
from labkit.datasets.masks.mask_folder import MaskFolder
from labkit.datasets.sanity_checks import check_annotations
from labkit.datasets.shapes import Shapes

POLYGON = [[4, 5, 24, 5, 24, 21, 4, 21]]
BOX = [4, 5, 20, 16]


def _instances(tmp_path, orientation=None, size=(48, 64), **fields):
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "train").mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    stored = size[::-1] if (orientation or 1) >= 5 else size
    Image.new("RGB", stored[::-1]).save(tmp_path / "train" / "a.jpg", exif=exif)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 320, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [{**row, "segmentation": POLYGON, **fields}],
    }
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(f.kind, f.text) for f in check_annotations(CocoInstances(path))]


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"bbox": [4, 5, 24, 21]}, "box", "its mask has [4, 5, 20, 16]; it looks like x1, y1, x2"),
        ({"bbox": [4, 5, 16, 20]}, "box", "it looks like x, y, height, width"),
        ({"bbox": [4 / 64, 5 / 48, 20 / 64, 16 / 48]}, "box", "it looks like shares of the image"),
        ({"bbox": [14, 13, 20, 16]}, "box", "it looks like the middle, width, height"),
        ({"bbox": [30, 20, 20, 16]}, "box", "annotation 1 (red): bbox [30, 20, 20, 16]"),
        ({"bbox": [4, 5, 0, 16]}, "box", "has no area; training leaves it out"),
        ({"area": 240}, "area", "area 240, its mask has 320 pixels"),
        ({"area": 0}, "area", "area 0, its mask has 320 pixels"),
        ({"area": 32000}, "area", "area 32000, its mask has 320 pixels"),
        ({"segmentation": [[4, 5, 10, 11, 20, 21]]}, "vanished", "no pixel in the image; its poly"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "vanished", "spans x 100 to 120, y"),
        ({"iscrowd": 1}, "empty", "nothing is labelled but 1 crowd (iscrowd=1)"),
    ],
)
def test_what_a_file_states_must_be_the_masks(tmp_path, fields, kind, text):
    found = dict(_instances(tmp_path, **fields))
    assert kind in found
    assert text in found[kind]


@pytest.mark.parametrize(
    "fields",
    [{}, {"bbox": [3, 4, 21.5, 17]}, {"bbox": [4.6, 5.4, 18.9, 15.2], "area": 301.5}],
)
def test_borders_between_pixels_are_no_mistake(tmp_path, fields):
    assert _instances(tmp_path, **fields) == []


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_turn_that_the_size_does_not_show_is_said(tmp_path, orientation):
    ((kind, text),) = _instances(tmp_path, orientation)
    assert (kind, f"orientation {orientation} turns the image" in text) == ("turned", True)


def test_turns_by_a_quarter_show_in_the_size_unless_it_is_square(tmp_path):
    assert _instances(tmp_path, 6) == []
    assert [kind for kind, _ in _instances(tmp_path, 6, (48, 48))] == ["turned"]


def test_panoptic_areas_and_boxes_are_those_of_the_png(tmp_path):
    export_coco(Shapes("val", 2, size=64), tmp_path / "set", split="val")
    path = tmp_path / "set" / "annotations" / "panoptic_val.json"
    assert list(check_annotations(CocoPanoptic(path))) == []
    content = json.loads(path.read_text())
    first, second = content["annotations"][0]["segments_info"][:2]
    first["area"] *= 10
    second["bbox"] = [0, 0, 1, 1]
    path.write_text(json.dumps(content))
    found = list(check_annotations(CocoPanoptic(path)))
    assert [(f.image, f.kind) for f in found] == [("000001000000.png", k) for k in ("area", "box")]
    assert f"area {first['area']}, the PNG has {first['area'] // 10} pixels" in found[0].text


@pytest.mark.parametrize("value", [10**400, 1e300, float("inf"), "3"])
def test_a_coordinate_that_no_image_has(tmp_path, value):
    export_coco(Shapes("val", 1, size=64), tmp_path / "set", split="val")
    path = tmp_path / "set" / "annotations" / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["bbox"][2] = value
    path.write_text(json.dumps(content))
    (found,) = check_annotations(CocoPanoptic(path))
    assert found.kind == "box"
    assert "is not a box x, y, width, height" in found.text


def test_copies_of_an_annotation_are_one_warning(tmp_path):
    """Pairs of 300 copies would be 44,850."""
    assert _instances(tmp_path) == []
    path = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    (row,) = content["annotations"]
    content["annotations"] += [row | {"id": number} for number in range(2, 301)]
    path.write_text(json.dumps(content))
    (found,) = check_annotations(CocoInstances(path))
    assert (found.kind, found.text) == ("copied", "300 of red have the same mask, row 5, column 4")


def test_every_pair_of_neighbours_is_found(tmp_path):
    """Against all pairs, one by one, with dilation over the whole image."""
    random = np.random.default_rng(0)
    mask = np.zeros((60, 60), np.uint16)
    for number in range(40):
        y, x = random.integers(0, 50, 2)
        mask[y : y + random.integers(2, 9), x : x + random.integers(2, 9)] = number + 1
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (tmp_path / "c.json").write_text('[{"name": "cell", "isthing": true, "value": 1}]')
    classes = read_mask_categories(tmp_path / "c.json")
    data = MaskFolder(tmp_path / "images", tmp_path / "masks", classes, instances_of="cell")
    beside = set()
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        pairs = np.stack([np.minimum(a, b), np.maximum(a, b)]).reshape(2, -1).T
        beside |= {tuple(pair) for pair in pairs.tolist() if 0 < pair[0] < pair[1]}
    found = [f.kind for f in check_annotations(data)]
    assert found.count("touching") == len(beside) > 10


def test_things_alone_leave_the_background_unlabelled(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name, value in (("a", 1), ("b", 255)):
        mask = np.zeros((20, 20), np.uint8)
        mask[:5, :5] = value
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "c.json").write_text('[{"name": "cell", "isthing": true, "value": 1}]')
    classes = read_mask_categories(tmp_path / "c.json")
    found = list(check_annotations(MaskFolder(tmp_path / "images", tmp_path / "masks", classes)))
    assert [(f.image, f.kind, f.text) for f in found] == [
        ("b", "empty", "nothing is labelled; 255 in 25 pixels belongs to no category")
    ]
