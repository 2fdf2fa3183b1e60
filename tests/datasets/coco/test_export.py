"""Export: what is written can be read back exactly, by labkit and by pycocotools."""

import contextlib
import errno
import io
import json

import numpy as np
import pytest
import torch
from helpers.command import labkit
from PIL import Image
from pycocotools.coco import COCO

from labkit.datasets.coco import export as export_module
from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.shapes import Shapes
from labkit.datasets.targets import target_from_panoptic
from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Panoptic, Segment


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "shapes"
    export_coco(Shapes("val", num=9, size=96, crowded=True), out, num=6, split="val")
    return out


def test_reads_back_identical(written):
    back = CocoPanoptic.from_folder(written)
    assert len(back) == 6
    assert back.categories == Shapes.categories
    original = Shapes("val", size=96, crowded=True)
    for i in range(6):
        image, target = back[i]
        expected_image, expected = original[i]
        assert torch.equal(image, expected_image)
        assert torch.equal(target["panoptic"].ids, expected["panoptic"].ids)
        assert target["panoptic"].segments == expected["panoptic"].segments
        assert target["image_id"] == expected["image_id"]
        for key in ("boxes", "labels", "masks", "semantic"):
            assert torch.equal(target[key], expected[key])


def test_pycocotools_reads_the_instances(written):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(written / "annotations" / "instances_val.json"))
    assert {c["name"] for c in coco.cats.values()} == {"square", "circle", "triangle"}
    original = Shapes("val", size=96, crowded=True)
    for i in range(6):
        target = original[i][1]
        found = coco.loadAnns(coco.getAnnIds(imgIds=target["image_id"]))
        assert len(found) == len(target["labels"])
        for annotation, mask, box, label in zip(
            found, target["masks"], target["boxes"].tolist(), target["labels"], strict=True
        ):
            assert np.array_equal(coco.annToMask(annotation), mask.numpy())
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box
            assert annotation["category_id"] == Shapes.categories[label].id
    assert min(coco.anns) == 1  # the evaluation takes id 0 for "no match"


def test_panoptic_png_follows_the_format(written):
    data = json.loads((written / "annotations" / "panoptic_val.json").read_text())
    annotation = data["annotations"][0]
    png = Image.open(written / "annotations" / "panoptic_val" / annotation["file_name"])
    assert png.mode == "RGB"
    red, green, blue = np.moveaxis(np.array(png).astype(int), -1, 0)
    ids = red + 256 * green + 65536 * blue
    for segment in annotation["segments_info"]:
        rows, columns = np.nonzero(ids == segment["id"])
        assert segment["area"] == rows.size
        x, y, width, height = segment["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


class OneImage:
    """A thing, a crowd of things and void; a string names the image, as in Cityscapes."""

    categories = Categories([Category(7, "cat", True), Category(3, "sky", False)])

    def __len__(self):
        return 1

    def __getitem__(self, index):
        ids = torch.tensor([[70000, 70000, 0], [2, 2, 9]], dtype=torch.int32)
        segments = [Segment(70000, 0), Segment(2, 0, iscrowd=True), Segment(9, 1)]
        image = torch.full((3, 2, 3), 9, dtype=torch.uint8)
        return image, target_from_panoptic(Panoptic(ids, segments), self.categories, "town_01")


def test_crowd_void_and_named_images(tmp_path):
    export_coco(OneImage(), tmp_path / "out")
    data = json.loads((tmp_path / "out" / "annotations" / "instances_val.json").read_text())
    assert [(a["category_id"], a["iscrowd"], a["area"]) for a in data["annotations"]] == [
        (7, 0, 2),
        (7, 1, 2),
    ]
    _, target = CocoPanoptic.from_folder(tmp_path / "out")[0]
    assert target["image_id"] == 1  # a number, for other tools; the name is the file's
    assert [image["file_name"] for image in data["images"]] == ["town_01.png"]
    assert target["panoptic"].ids.tolist() == [[70000, 70000, 0], [2, 2, 9]]
    assert target["panoptic"].segments[1].iscrowd
    assert target["boxes"].tolist() == [[0, 0, 2, 1]]


def test_a_folder_in_use_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(LabkitError, match="exists already"):
        export_coco(Shapes(num=1), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_second_split_is_laid_beside_the_first(tmp_path):
    export_coco(Shapes("train", num=2, size=64), tmp_path / "out", split="train")
    export_coco(Shapes("val", num=1, size=64), tmp_path / "out", split="val")
    for split, num in (("train", 2), ("val", 1)):
        back = CocoPanoptic.from_folder(tmp_path / "out", split)
        assert len(back) == num
        assert torch.equal(back[0][0], Shapes(split, num=num, size=64)[0][0])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabkitError, match=r"out/val: exists already; .* another split"):
        export_coco(Shapes("val", num=2, size=64), tmp_path / "out", split="val")
    with pytest.raises(LabkitError, match=r"panoptic_train\.json has other categories"):
        export_coco(OneImage(), tmp_path / "out", split="test")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_will_do(tmp_path):
    export_coco(Shapes(num=1, size=64), tmp_path)
    assert (tmp_path / "annotations" / "panoptic_val.json").is_file()


@pytest.mark.parametrize("num", [0, 4])
def test_num_out_of_range(tmp_path, num):
    with pytest.raises(LabkitError, match=f"num {num} must be in 1..3"):
        export_coco(Shapes(num=3), tmp_path / "out", num=num)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch, error):
    calls = []

    def third_fails(path, ids):
        calls.append(path)
        if len(calls) == 3:
            raise error

    monkeypatch.setattr(export_module, "write_png", third_fails)
    expected = LabkitError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export_coco(Shapes(num=5, size=64), tmp_path / "out")
    assert len(calls) == 3
    assert not any(tmp_path.iterdir())


def test_the_command(tmp_path):
    out = tmp_path / "shapes"
    command = ["data", "export", "shapes", out]
    options = ["--num", "3", "--split", "test", "--crowded", "--size", "64", "--seed", "5"]
    done = labkit(*command, *options)
    assert done.returncode == 0, done.stderr
    back = CocoPanoptic.from_folder(out, "test")
    assert torch.equal(back[2][0], Shapes("test", 3, 64, True, 5)[2][0])
    again = labkit(*command, *options)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr
