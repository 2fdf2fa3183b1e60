"""COCO's instance format: polygons, run-length codes, crowds, and files that are wrong."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.image_files import read_image
from labkit.datasets.registry import open_dataset
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError


def test_reads_what_export_writes(tmp_path):
    shapes = Shapes("val", num=4, size=64, crowded=True)
    export_coco(shapes, tmp_path / "set", split="val")
    back = open_dataset(f"coco:{tmp_path / 'set'}", "val")
    assert [c.name for c in back.categories] == ["square", "circle", "triangle"]
    assert len(back) == 4
    for (image, target), (expected_image, expected) in zip(back, shapes, strict=True):
        assert torch.equal(image, expected_image)
        assert target["image_id"] == expected["image_id"]
        for key in ("boxes", "labels", "masks"):
            assert torch.equal(target[key], expected[key])
            assert target[key].dtype == expected[key].dtype
    both = open_dataset(f"coco_panoptic:{tmp_path / 'set'}", "val")[0][1]
    assert torch.equal(both["semantic"], shapes[0][1]["semantic"])


BITS = np.zeros((6, 8), np.uint8)
BITS[1:4, 5:8] = 1
CODE = {"size": [6, 8], "counts": coco_mask.encode(np.asfortranarray(BITS))["counts"].decode()}
RUNS = {"size": [6, 8], "counts": [31, 3, 3, 3, 3, 3, 2]}
SQUARE = [[0, 0, 4, 0, 4, 3, 0, 3]]


IMAGE = {"id": 5, "file_name": "a.png", "height": 6, "width": 8}


def _annotation(**fields):
    row = {"id": 1, "image_id": 5, "category_id": 20, "bbox": [0, 0, 4, 3], "area": 12.0}
    return {**row, "iscrowd": 0, "segmentation": SQUARE, **fields}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 6), (10, 20, 30)).save(tmp_path / "val2017" / "a.png")

    def write(*annotations, **changes):
        data = {
            "images": [IMAGE],
            "categories": [{"id": 20, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": list(annotations),
            **changes,
        }
        path = tmp_path / "annotations" / "instances_val2017.json"
        path.write_text(json.dumps(data))
        return tmp_path

    return write


def test_polygons_codes_and_crowds_by_hand(folder):
    root = folder(
        _annotation(),
        _annotation(id=2, category_id=3, bbox=[5, 1, 3, 3], segmentation=CODE),
        _annotation(id=3, category_id=3, bbox=[5, 1, 3, 3], segmentation=RUNS),
        _annotation(id=4, iscrowd=1, segmentation=RUNS),
    )
    data = CocoInstances.from_folder(root, "val")
    image, target = data[0]
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert target["labels"].tolist() == [0, 1, 1]
    assert target["boxes"].tolist() == [[0, 0, 4, 3], [5, 1, 8, 4], [5, 1, 8, 4]]
    assert target["masks"][0].sum() == 12
    assert torch.equal(target["masks"][1], torch.from_numpy(BITS).bool())
    assert torch.equal(target["masks"][2], torch.from_numpy(BITS).bool())
    rows = data.annotations(0)
    assert [row["iscrowd"] for row in rows] == [0, 0, 0, 1]
    assert [coco_mask.area(row["segmentation"]) for row in rows] == [12, 9, 9, 9]


def test_images_without_objects_and_objects_without_pixels(folder):
    _, target = CocoInstances.from_folder(folder(), "val2017")[0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 6, 8)
    thin = _annotation(segmentation=[[1, 1, 1.2, 1, 1.2, 1.1]])
    data = CocoInstances.from_folder(folder(thin, _annotation(category_id=3)), "val")
    with pytest.warns(UserWarning, match="annotation 1: the mask has no pixel in the image"):
        _, target = data[0]
    assert target["labels"].tolist() == [1]
    flat = _annotation(bbox=[0, 0, 4, 0.0])
    with pytest.warns(UserWarning, match="1 object has a box without area"):
        data = CocoInstances.from_folder(folder(flat), "val")
    assert len(data[0][1]["labels"]) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [0, 0, -4, 3]}, r"image 5, annotation 1: bbox \[0, 0, -4, 3\] has a negative"),
        ({"bbox": [0, 0, 4]}, r"bbox \[0, 0, 4\] must be four numbers"),
        ({"bbox": [0, 0, float("nan"), 3]}, "must be four numbers"),
        ({"category_id": 4}, 'category_id 4 is not in "categories"'),
        ({"image_id": 6}, 'image 6, annotation 1: this image is not in "images"'),
        ({"segmentation": [[0, 0, 4, 0]]}, "a polygon needs at least three points"),
        ({"segmentation": []}, "has a box but no mask"),
        ({"segmentation": [[0, 0, 4, float("nan"), 4, 4]]}, "a corner that is not a number"),
        ({"segmentation": [[0, 0, 4, 0, 1e12, 4]]}, "far outside"),
        ({"segmentation": {**CODE, "counts": CODE["counts"][:-2]}}, "the code is damaged"),
        ({"segmentation": {**CODE, "counts": "zzzz"}}, "the code is damaged"),
        ({"segmentation": {**CODE, "counts": ""}}, "the code is damaged"),
        ({"segmentation": {**RUNS, "counts": [31, 3]}}, "do not add up to the image"),
        ({"segmentation": {**RUNS, "size": [8, 6]}}, r"its size is \[8, 6\]"),
        ({"segmentation": {**CODE, "counts": "P" * 100_000}}, "the code is damaged"),
        ({"segmentation": {**CODE, "counts": "ü"}}, "the code is damaged"),
        ({"segmentation": {**CODE, "counts": None}}, "counts is null; it must be"),
        ({"segmentation": {**RUNS, "counts": [31.5, 16.5]}}, "31.5 is not a valid run length"),
        ({"segmentation": {**RUNS, "counts": [50, -2]}}, "-2 is not a valid run length"),
        ({"segmentation": {"counts": [48]}}, "its size is null"),
        ({"segmentation": "here"}, 'is the text "here"; it must be a list of polygons or a run'),
        ({"segmentation": None}, "is null: the object has a box but no mask"),
        ({"segmentation": [[]]}, "the polygon is empty: no mask"),
        ({"segmentation": SQUARE[0]}, "is one list of numbers; it must be a list of polygons"),
        ({"segmentation": [[0, 0], [4, 0], [4, 3]]}, "lists its points as pairs"),
        ({"segmentation": [[[0, 0], [4, 0], [4, 3]]]}, "lists its points as pairs"),
        ({"segmentation": [{"x": 0, "y": 0}]}, "it must be a list x1, y1, x2, y2"),
        ({"segmentation": [["0", "0", "4", "0", "4", "3"]]}, 'has the text "0" where a number'),
        ({"segmentation": [[0, 0, 4, None, 4, 3]]}, "has null where a number must be"),
        ({"segmentation": [*SQUARE, [1, 1, 1, 1]]}, "polygon 2 of 2 has 4 numbers"),
        ({"segmentation": [SQUARE[0][:-1]]}, "has 7 numbers, an odd count: x or y is missing"),
        ({"segmentation": [[-80, -80, 80, 80] * 500]}, "pixels long, more than the image has"),
        ({"category_id": "20"}, 'category_id "20" is not .* is text here and the number 20 there'),
        ({"category_id": None}, '"category_id" is null; it must be an integer'),
        ({"category_id": [20]}, r'"category_id" is \[20\]; it must be an integer'),
        ({"image_id": "5"}, 'image 5, .*not in "images"; it is text here and the number 5 there'),
        ({"image_id": None}, r'annotations\[0\]: "image_id" is null; it must be an integer or'),
        ({"image_id": {}}, r'annotations\[0\]: "image_id" is {}; it must be an integer or'),
        ({"area": None}, 'image 5, annotation 1: "area" is null; it must be a number'),
        ({"area": "12"}, '"area" is the text "12"; it must be a number'),
        ({"area": float("nan")}, '"area" is NaN; it must be a number'),
        ({"area": 10**400}, '"area" is 1000.*; it must be a number'),
        ({"area": -1}, '"area" -1 must not be negative'),
        ({"iscrowd": "0"}, '"iscrowd" is the text "0"; it must be 0 or 1'),
        ({"iscrowd": None}, '"iscrowd" is null; it must be 0 or 1'),
        ({"bbox": [0, 0, 1e300, 3]}, "must be four numbers"),
        ({"bbox": [0, 0, "4", 3]}, "must be four numbers"),
        ({"bbox": None}, "bbox null must be four numbers"),
    ],
)
def test_a_wrong_annotation_is_refused_with_its_place(folder, fields, message):
    with pytest.raises(LabkitError, match=message):
        CocoInstances.from_folder(folder(_annotation(**fields)), "val")[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": None, "name": "a"}]}, r'categories\[0\]: "id" is null'),
        ({"categories": [{"id": "blue", "name": "a"}]}, r'"id" is the text "blue"; it must be an'),
        ({"categories": [{"id": 1, "name": 3}]}, r'categories\[0\]: "name" is 3'),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, r'categories\[1\]: "id" 1 occurs twice'),
        ({"categories": [{"id": k, "name": "a"} for k in range(256)]}, "256 categories; at most"),
        ({"images": [{"file_name": "a"}]}, r'images\[0\]: "id" is missing'),
        ({"images": [IMAGE, IMAGE]}, r'images\[1\]: "id" 5 occurs twice'),
        ({"images": [{**IMAGE, "width": -1}]}, r'"width" is -1; it must be an integer from 1 on'),
        ({"images": [{**IMAGE, "width": "8"}]}, r'"width" is the text "8"; it must be an integer'),
        ({"images": [{**IMAGE, "height": None}]}, r'images\[0\]: "height" is null'),
        ({"images": [{**IMAGE, "height": 10**9}]}, "more than the 178,956,970 pixels"),
        ({"images": [{**IMAGE, "file_name": "a\0b"}]}, r'"file_name" is the text "a'),
        ({"images": [3]}, r"images\[0\]: is 3, it must be an object"),
        ({"annotations": [None]}, r"annotations\[0\]: is null, it must be an object"),
    ],
)
def test_a_wrong_field_is_refused_with_its_place(folder, changes, message):
    with pytest.raises(LabkitError, match=message):
        CocoInstances.from_folder(folder(**changes), "val")


def test_whole_numbers_may_be_written_as_fractions(folder):
    image = {"id": 5.0, "file_name": "a.png", "height": 6.0, "width": 8.0}
    root = folder(_annotation(category_id=20.0, iscrowd=0.0), images=[image])
    _, target = CocoInstances.from_folder(root, "val")[0]
    assert (target["image_id"], target["labels"].tolist()) == (5, [0])
    assert type(target["image_id"]) is int


def test_backslashes_name_the_file_in_the_folder(folder):
    root = folder(_annotation(), images=[{**IMAGE, "file_name": r"sub\a.png"}])
    (root / "val2017" / "sub").mkdir()
    (root / "val2017" / "a.png").rename(root / "val2017" / "sub" / "a.png")
    assert CocoInstances.from_folder(root, "val")[0][0].shape == (3, 6, 8)


def test_many_crowds_are_said(folder):
    """A few are COCO's own; when all are, a program wrote iscrowd for every painted mask."""
    with pytest.warns(UserWarning, match="2 of 2 annotations are iscrowd=1 and are left out"):
        data = CocoInstances.from_folder(
            folder(*[_annotation(iscrowd=1, segmentation=RUNS)] * 2), "val"
        )
    assert len(data[0][1]["labels"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CocoInstances.from_folder(folder(*[_annotation()] * 19, _annotation(iscrowd=1)), "val")


def test_too_many_masks_for_the_memory_are_refused(folder, monkeypatch):
    monkeypatch.setattr("labkit.datasets.targets.MOST_MASK_BYTES", 100)
    data = CocoInstances.from_folder(folder(*[_annotation()] * 3), "val")
    with pytest.raises(LabkitError, match=r"image 5: 3 objects on 6 x 8 pixels need"):
        data[0]


def test_another_file_is_refused(folder, tmp_path):
    root = folder(_annotation())
    with pytest.raises(LabkitError, match=r"no split 'train'; it has val2017"):
        CocoInstances.from_folder(root, "train")
    with pytest.raises(LabkitError, match=r"no annotations/instances_\*\.json"):
        CocoInstances.from_folder(tmp_path / "val2017", "val")
    with pytest.raises(LabkitError, match=r'images\[0\]: "height" is missing'):
        CocoInstances.from_folder(folder(images=[{"id": 5, "file_name": "a", "width": 1}]), "val")
    with pytest.raises(LabkitError, match='"categories" is none'):
        CocoInstances.from_folder(folder(categories=3), "val")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text("{")
    with pytest.raises(LabkitError, match="not a JSON file"):
        CocoInstances(path)


def test_code_totals_of_random_masks(folder):
    """The check of compressed codes accepts every code that pycocotools writes."""
    random = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 1.0):
        bits = (random.random((6, 8)) < density).astype(np.uint8)
        code = coco_mask.encode(np.asfortranarray(bits))
        shape = {"size": [6, 8], "counts": code["counts"].decode()}
        _, target = CocoInstances.from_folder(folder(_annotation(segmentation=shape)), "val")[0]
        assert target["masks"].sum() == bits.sum()


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    grey = np.array([[0, 128, 255], [255, 0, 0]], np.uint8)
    picture = Image.fromarray(grey)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        picture = Image.fromarray(grey > 127)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "x.png")
    expected = torch.from_numpy(grey if mode != "1" else np.uint8(255) * (grey > 127))
    image = read_image(tmp_path / "x.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, expected.expand(3, 2, 3))


def test_a_cut_jpeg_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(LabkitError, match=r"x\.jpg: the image is damaged"):
        read_image(path)


def test_names_of_data_sets(tmp_path):
    assert len(open_dataset("shapes", "val")) == 500
    assert open_dataset("crowded", "train").crowded
    for name, message in (
        ("cifar", "no data set 'cifar'; the data sets are: shapes, crowded"),
        ("shpaes", r"no data set 'shpaes': did you mean shapes\? the data sets are"),
        ("coco-panoptic:x", r"no data set 'coco-panoptic': did you mean coco_panoptic\?"),
        (str(tmp_path), f"a folder needs its format, such as coco_panoptic:{tmp_path};"),
        ("coco", "data: 'coco' must be written coco:DIR"),
        ("shapes:here", "data: 'shapes:here' must be written shapes"),
    ):
        with pytest.raises(LabkitError, match=message):
            open_dataset(name, "train")
    with pytest.raises(LabkitError, match=r"split 'vol' is not one of"):
        open_dataset("shapes", "vol")
    with pytest.raises(LabkitError, match="labkit data get penn-fudan"):
        open_dataset(f"penn_fudan:{tmp_path}", "train")
