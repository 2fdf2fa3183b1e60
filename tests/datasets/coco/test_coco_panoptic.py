"""The reader of COCO's panoptic format, on real annotations and on broken files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.structures import IGNORE

SAMPLE = Path(os.environ.get("LABKIT_DATA", "")) / "coco_panoptic_sample"
needs_sample = pytest.mark.skipif(
    "LABKIT_DATA" not in os.environ or not SAMPLE.is_dir(),
    reason="needs COCO's sample images: LABKIT_DATA=FOLDER uv run pytest, with"
    " coco_panoptic_sample/ of the panopticapi project in FOLDER",
)


@pytest.fixture
def folder(tmp_path):
    export_coco(Shapes(num=2, size=64), tmp_path / "set", split="tiny")
    return tmp_path / "set"


def edit(folder, change):
    path = folder / "annotations" / "panoptic_tiny.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@needs_sample
def test_real_annotations():
    dataset = CocoPanoptic(SAMPLE / "panoptic_examples.json", image_dir=SAMPLE / "input_images")
    assert len(dataset) == 2
    assert (len(dataset.categories.things), len(dataset.categories)) == (80, 133)
    data = json.loads((SAMPLE / "panoptic_examples.json").read_text())
    for (image, target), annotation in zip(dataset, data["annotations"], strict=True):
        assert image.shape[1:] == target["panoptic"].ids.shape
        infos = {s["id"]: s for s in annotation["segments_info"]}
        assert {s.id for s in target["panoptic"].segments} == set(infos)
        for segment in target["panoptic"].segments:
            region = target["panoptic"].ids == segment.id
            assert region.sum() == infos[segment.id]["area"]
            assert dataset.categories[segment.label].id == infos[segment.id]["category_id"]
            assert (target["semantic"][region] == segment.label).all()
        assert torch.equal(target["semantic"] == IGNORE, target["panoptic"].ids == 0)
        # COCO's boxes are of the same masks; they are x, y, width, height.
        objects = [
            s
            for s in annotation["segments_info"]
            if dataset.categories[dataset.categories.label(s["category_id"])].isthing
            and not s["iscrowd"]
        ]
        boxes = torch.tensor([s["bbox"] for s in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        assert torch.equal(target["boxes"], boxes)


def test_defaults_follow_cocos_layout(folder):
    dataset = CocoPanoptic(folder / "annotations" / "panoptic_tiny.json")
    assert dataset.image_dir == folder / "tiny"
    assert dataset.png_dir == folder / "annotations" / "panoptic_tiny"
    assert [t["image_id"] for _, t in dataset] == [0, 1]


def test_images_without_annotation_are_left_out(folder):
    edit(folder, lambda data: data["annotations"].pop(0))
    assert [t["image_id"] for _, t in CocoPanoptic.from_folder(folder)] == [1]


def test_splits_are_named_when_unclear(folder):
    annotations = folder / "annotations"
    (annotations / "panoptic_other.json").write_text("{}")
    with pytest.raises(LabkitError, match="several splits; name one of other, tiny"):
        CocoPanoptic.from_folder(folder)
    with pytest.raises(LabkitError, match="no split 'val'; it has other, tiny"):
        CocoPanoptic.from_folder(folder, "val")
    assert len(CocoPanoptic.from_folder(folder, "tiny")) == 2
    with pytest.raises(LabkitError, match=r"no annotations/panoptic_\*\.json"):
        CocoPanoptic.from_folder(annotations)


def test_missing_folders_are_named(folder):
    path = folder / "annotations" / "panoptic_tiny.json"
    with pytest.raises(LabkitError, match=r"no folder nowhere; say image_dir="):
        CocoPanoptic(path, image_dir="nowhere")
    with pytest.raises(LabkitError, match=r"no folder nowhere; say png_dir="):
        CocoPanoptic(path, png_dir="nowhere")


def broken(folder, breakage):
    name = "000000000001.png"
    image, png = folder / "tiny" / name, folder / "annotations" / "panoptic_tiny" / name
    if breakage == "no image":
        image.unlink()
    elif breakage == "truncated image":
        image.write_bytes(image.read_bytes()[:3000])
    elif breakage == "text for an image":
        image.write_text("hello")
    elif breakage == "image of other size":
        Image.new("RGB", (64, 32)).save(image)
    elif breakage == "no png":
        png.unlink()
    elif breakage == "png of other size":
        Image.new("RGB", (64, 32)).save(png)
    elif breakage == "unlisted segment":
        pixels = np.array(Image.open(png))
        pixels[0, 0] = (99, 0, 0)
        Image.fromarray(pixels).save(png)
    elif breakage == "absent segment":

        def add(data):
            segments = data["annotations"][1]["segments_info"]
            segments.append({**segments[0], "id": 77})

        edit(folder, add)


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        ("no image", r"tiny.000000000001.png: image not found"),
        ("truncated image", r"tiny.000000000001.png: the image is damaged"),
        ("text for an image", r"tiny.000000000001.png: not an image file"),
        ("image of other size", r"tiny.000000000001.png: the image is 32 x 64, .*64 x 64"),
        ("no png", r"panoptic_tiny.000000000001.png: "),
        ("png of other size", r"panoptic_tiny.000000000001.png: .*32 x 64 .*expected 64 x 64"),
        ("unlisted segment", r"panoptic_tiny.000000000001.png: segment 99 is in the PNG but not"),
        ("absent segment", r"panoptic_tiny.000000000001.png: segment 77 is in the JSON"),
    ],
)
def test_broken_files_are_named(folder, breakage, message):
    broken(folder, breakage)
    dataset = CocoPanoptic.from_folder(folder)
    dataset[0]
    with pytest.raises(LabkitError, match=message):
        dataset[1]


def test_a_broken_json_is_refused_at_once(folder):
    edit(folder, lambda data: data["annotations"][1]["segments_info"][0].update(category_id=50))
    with pytest.raises(LabkitError, match=r'panoptic_tiny\.json: image 1, .*"category_id" 50'):
        CocoPanoptic.from_folder(folder)
