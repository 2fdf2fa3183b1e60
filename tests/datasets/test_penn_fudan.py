"""The Penn-Fudan reader, on a folder made here and on the real images."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.datasets import penn_fudan
from labkit.datasets.penn_fudan import PennFudan
from labkit.errors import LabkitError

REAL = Path(os.environ.get("LABKIT_DATA", "")) / "PennFudanPed"
needs_real = pytest.mark.skipif(
    "LABKIT_DATA" not in os.environ or not REAL.is_dir(),
    reason="needs the Penn-Fudan images: uv run labkit data get penn-fudan --dir FOLDER, then"
    " LABKIT_DATA=FOLDER uv run pytest",
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Seven images 3 × 4 with two pedestrians, numbered 1 and 3."""
    monkeypatch.setattr(penn_fudan, "HELD_OUT", 2)
    (tmp_path / "PNGImages").mkdir()
    (tmp_path / "PedMasks").mkdir()
    numbers = np.array([[0, 1, 1, 0], [0, 1, 0, 3], [0, 0, 3, 3]], np.uint8)
    for i in range(7):
        Image.new("RGB", (4, 3), (i, 0, 0)).save(tmp_path / "PNGImages" / f"Town{i}.png")
        Image.fromarray(numbers).save(tmp_path / "PedMasks" / f"Town{i}_mask.png")
    return tmp_path


def test_a_small_folder_by_hand(root):
    image, target = PennFudan(root)[2]
    assert image.shape == (3, 3, 4)
    assert image[0, 0, 0] == 2
    assert target["image_id"] == 2
    assert target["boxes"].tolist() == [[1, 0, 3, 2], [2, 1, 4, 3]]
    assert target["labels"].tolist() == [0, 0]
    assert target["panoptic"].ids.tolist() == [[3, 1, 1, 3], [3, 1, 3, 2], [3, 3, 2, 2]]
    assert target["semantic"].tolist() == [[1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]]


def test_the_last_images_are_held_out(root, monkeypatch):
    assert [t["image_id"] for _, t in PennFudan(root, "train")] == [0, 1, 2, 3, 4]
    assert [t["image_id"] for _, t in PennFudan(root, "val")] == [5, 6]
    monkeypatch.undo()
    with pytest.raises(LabkitError, match="7 images; the last 30 are held out"):
        PennFudan(root, "val")


def test_images_without_people_or_without_background(root):
    for value, labels in ((0, []), (2, [0])):
        mask = Image.fromarray(np.full((3, 4), value, np.uint8))
        mask.save(root / "PedMasks" / "Town0_mask.png")
        target = PennFudan(root)[0][1]
        assert target["labels"].tolist() == labels
        assert len(target["panoptic"].segments) == 1
        assert (target["panoptic"].ids == 1).all()


def test_wrong_folder(tmp_path, root):
    with pytest.raises(LabkitError, match=r"no PNGImages/\*\.png .*`labkit data get penn-fudan`"):
        PennFudan(tmp_path / "elsewhere")
    with pytest.raises(LabkitError, match="'test' is not one of train, val"):
        PennFudan(root, "test")


def test_broken_files_are_named(root):
    mask = root / "PedMasks" / "Town0_mask.png"
    Image.new("L", (5, 5)).save(mask)
    with pytest.raises(LabkitError, match=r"Town0_mask\.png: the mask is 5 x 5 .* 3 x 4"):
        PennFudan(root)[0]
    mask.write_bytes(b"no image")
    with pytest.raises(LabkitError, match=r"Town0_mask\.png: not an image file"):
        PennFudan(root)[0]
    mask.unlink()
    with pytest.raises(LabkitError, match=r"Town0_mask\.png: missing, but"):
        PennFudan(root)


def annotated_boxes(name):
    """The boxes of the text file as XYXY with pixel edges: it counts from 1 and to the last."""
    text = (REAL / "Annotation" / f"{name}.txt").read_text(errors="replace")
    found = re.findall(r"\(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)", text)
    return torch.tensor([[int(a) - 1, int(b) - 1, int(c), int(d)] for a, b, c, d in found])


@needs_real
def test_boxes_agree_with_the_published_ones():
    names = sorted(p.stem for p in (REAL / "PNGImages").glob("*.png"))
    dataset = PennFudan(REAL, "val")
    assert len(dataset) == 30
    equal, objects = 0, 0
    for _, target in dataset:
        boxes = annotated_boxes(names[target["image_id"]])
        assert boxes.shape == target["boxes"].shape
        # The published boxes are drawn by hand: some are up to six pixels wider.
        assert (boxes - target["boxes"]).abs().max() <= 6
        equal += (boxes == target["boxes"]).all(1).sum().item()
        objects += len(boxes)
    assert objects > len(dataset)
    assert equal / objects > 0.85


@needs_real
def test_a_copy_with_fewer_images(tmp_path):
    for part in ("PNGImages", "PedMasks"):
        (tmp_path / part).mkdir()
        for path in sorted((REAL / part).glob("*.png"))[:33]:
            shutil.copy(path, tmp_path / part)
    assert len(PennFudan(tmp_path)) == 3
