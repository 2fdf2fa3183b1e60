"""Folders that are given without a format."""

import pytest

from labkit.datasets.coco.export import export_coco
from labkit.datasets.registry import open_dataset, recognised_formats
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError


def test_a_folder_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_coco(Shapes("val", 2, size=64), tmp_path / "coco", split="val")  # a format's name, too
    assert recognised_formats("coco", "val") == ("coco_panoptic:coco", "coco:coco")
    assert len(open_dataset(recognised_formats("coco", "val")[0], "val")) == 2
    (tmp_path / "coco" / "annotations" / "panoptic_val.json").unlink()
    assert recognised_formats("coco", "val") == ("coco:coco",)
    # A split that is not there is named by the reader, not here.
    assert recognised_formats("coco", "train") == ("coco:coco",)
    (tmp_path / "PennFudanPed" / "PNGImages").mkdir(parents=True)
    (tmp_path / "PennFudanPed" / "PNGImages" / "a.png").touch()
    assert recognised_formats("PennFudanPed", "train") == ("penn_fudan:PennFudanPed",)
    (tmp_path / "streets" / "gtFine" / "train").mkdir(parents=True)
    assert recognised_formats("streets", "train") == ("cityscapes:streets",)


def test_names_stay_and_other_folders_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    for name in ("shapes", "crowded", "penn_fudan", "coco:here", "nowhere"):
        assert recognised_formats(name, "train") == (name,)
    (tmp_path / "photos").mkdir()
    with pytest.raises(LabkitError, match=r"photos: this folder is in no known format.*from-masks"):
        recognised_formats("photos", "train")


def test_penn_fudan_is_looked_for_in_the_named_folder_and_then_among_the_downloads(
    tmp_path, monkeypatch
):
    named, downloads = tmp_path / "named" / "PennFudanPed", tmp_path / "downloads" / "PennFudanPed"
    monkeypatch.setenv("LABKIT_DATA", str(named.parent))
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(downloads.parent))
    for expected in (downloads, named):  # without either, the message names where it would be
        if expected is named:
            named.mkdir(parents=True)
        with pytest.raises(LabkitError, match=f"^{expected}: no PNGImages"):
            open_dataset("penn_fudan", "train")
