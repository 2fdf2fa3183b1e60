from __future__ import annotations

import copy
import errno
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from labkit.datasets.coco.panoptic_json import read_json, write_json
from labkit.datasets.coco.panoptic_png import (
    check_segments,
    id_to_rgb,
    read_png,
    rgb_to_id,
    run_starts,
    to_annotation,
    to_panoptic,
    write_png,
)
from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Panoptic, Segment

SAMPLE = Path(os.environ.get("LABKIT_DATA", "/nonexistent")) / "coco_panoptic_sample"
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason="needs coco_panoptic_sample in FOLDER: LABKIT_DATA=FOLDER uv run pytest",
)
CATEGORIES = Categories([Category(7, "sky", False), Category(1, "cat", True)])
IDS = np.array([[7, 7, 300], [0, 7, 70_000]], np.int32)


def test_colours_worked_by_hand() -> None:
    rgb = np.array([[[7, 0, 0], [44, 1, 0]], [[112, 17, 1], [255, 255, 255]]], np.uint8)
    ids = [[7, 300], [70_000, 2**24 - 1]]
    assert rgb_to_id(rgb).tolist() == ids
    assert id_to_rgb(np.array(ids)).tolist() == rgb.tolist()
    assert rgb_to_id(rgb).dtype == np.int32


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2).map(lambda shape: (*shape, 3))))
def test_colours_round_trip(rgb: np.ndarray) -> None:
    np.testing.assert_array_equal(id_to_rgb(rgb_to_id(rgb)), rgb)


@pytest.mark.parametrize("ids", [[-1, 3], [2**24]])
def test_ids_beyond_three_bytes(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(LabkitError, match=r"segment ids must be in 0\.\.16777215"):
        write_png(tmp_path / "a.png", np.array([ids]))
    assert list(tmp_path.iterdir()) == []


def test_png_round_trip_through_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    write_png(path, IDS)
    np.testing.assert_array_equal(read_png(path, size=(2, 3)), IDS)
    with Image.open(path) as image:
        np.testing.assert_array_equal(rgb_to_id(np.array(image)), IDS)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_png_with_alpha(tmp_path: Path) -> None:
    rgba = np.dstack([id_to_rgb(IDS), np.full(IDS.shape, 9, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), IDS)


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LabkitError, match=r"a\.json: cannot be written: No space left on device"):
        write_json(path, [2])
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == [1]


def test_every_truncation_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, IDS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(LabkitError, match=r"a\.png: (the PNG is truncated|not a PNG file)"):
            read_png(path)


def test_every_flipped_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, IDS)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LabkitError, match=r"a\.png: (the PNG is|not a PNG)"):
            read_png(path)


def test_png_that_is_no_panoptic_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(LabkitError, match=r"a\.png: cannot read the PNG: No such file"):
        read_png(path)
    cv2.imwrite(str(path), np.zeros((2, 3), np.uint8))
    with pytest.raises(LabkitError, match=r"a\.png: the PNG is 8-bit greyscale; a panoptic PNG is"):
        read_png(path)
    cv2.imwrite(str(path), np.zeros((2, 3, 3), np.uint16))
    with pytest.raises(LabkitError, match=r"a\.png: the PNG is 16-bit RGB"):
        read_png(path)
    path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG")
    with pytest.raises(LabkitError, match=r"a\.png: not a PNG file"):
        read_png(path)
    write_png(path, IDS)
    with pytest.raises(LabkitError, match=r"a\.png: the PNG is 2 x 3 pixels .*, expected 3 x 2"):
        read_png(path, size=(3, 2))


GROUND_TRUTH: dict[str, Any] = {
    "images": [
        {"id": 42, "file_name": "a.jpg", "height": 2, "width": 3},
        {"id": 43, "file_name": "b.jpg", "height": 2, "width": 3},
    ],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 7, "name": "sky", "isthing": 0}],
    "annotations": [
        {
            "image_id": 42,
            "file_name": "a.png",
            "segments_info": [
                {"id": 7, "category_id": 7, "area": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0},
                {"id": 300, "category_id": 1, "area": 1, "bbox": [2, 0, 1, 1], "iscrowd": 0},
                {"id": 70000, "category_id": 1, "area": 1, "bbox": [2, 1, 1, 1], "iscrowd": 1},
            ],
        }
    ],
}


def test_map_and_annotation_round_trip() -> None:
    annotation = GROUND_TRUTH["annotations"][0]
    panoptic = to_panoptic(annotation, IDS, CATEGORIES, "a.png")
    assert panoptic.ids.tolist() == IDS.tolist()
    assert panoptic.segments == [
        Segment(7, label=1), Segment(300, label=0), Segment(70_000, label=0, iscrowd=True)
    ]  # fmt: skip
    assert to_annotation(panoptic, 42, "a.png", CATEGORIES) == annotation


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 3))
)
def test_areas_and_boxes_are_those_of_the_masks(ids: np.ndarray) -> None:
    present = [i for i in np.unique(ids).tolist() if i]
    panoptic = Panoptic(torch.from_numpy(ids), [Segment(i, 0) for i in present])
    infos = to_annotation(panoptic, 1, "a.png", CATEGORIES)["segments_info"]
    assert [info["id"] for info in infos] == present
    for info in infos:
        y, x = np.nonzero(ids == info["id"])
        assert info["area"] == y.size
        assert info["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


def test_runs_end_where_any_map_changes() -> None:
    a, b = np.array([1, 1, 1, 2, 2, 1]), np.array([5, 5, 6, 6, 6, 6])
    assert run_starts(a).tolist() == [0, 3, 5]
    assert run_starts(a, b).tolist() == [0, 2, 3, 5]
    assert run_starts(a[:0]).tolist() == []


def test_map_and_list_must_agree() -> None:
    annotation = copy.deepcopy(GROUND_TRUTH["annotations"][0])
    infos = annotation["segments_info"]
    with pytest.raises(
        LabkitError, match=r"^a\.png: segment 9 is in the PNG but not in the JSON's"
    ):
        to_panoptic(annotation, np.where(IDS == 0, 9, IDS), CATEGORIES, "a.png")
    with pytest.raises(
        LabkitError, match=r"JSON's segments_info but not in the PNG \(and 1 more\)"
    ):
        to_panoptic(annotation, np.full_like(IDS, 300), CATEGORIES, "a.png")
    infos[1]["category_id"] = 5
    with pytest.raises(LabkitError, match=r"^a\.png: unknown category id 5; known: 1, 7"):
        to_panoptic(annotation, IDS, CATEGORIES, "a.png")
    infos[1] = {"id": 0, "category_id": 1}
    with pytest.raises(LabkitError, match=r"^a\.png: segment id 0: .* void"):
        to_panoptic(annotation, np.where(IDS == 300, 0, IDS), CATEGORIES, "a.png")
    with pytest.raises(LabkitError, match=r"^image 5: segment 300 is in ids but not in segments"):
        to_annotation(Panoptic(torch.from_numpy(IDS[:1]), [Segment(7, 0)]), 5, "a", CATEGORIES)
    check_segments([7, 300], [0, 7, 300], "void need not be listed")


def read_changed(tmp_path: Path, path: tuple[Any, ...], value: Any, **options: Any) -> Any:
    """Read GROUND_TRUTH with the entry at ``path`` replaced; value ... removes it."""
    data = copy.deepcopy(GROUND_TRUTH)
    owner = data
    for key in path[:-1]:
        owner = owner[key]
    if value is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    write_json(tmp_path / "a.json", data)
    return read_json(tmp_path / "a.json", **options)


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", GROUND_TRUTH)
    assert read_json(tmp_path / "a.json") == GROUND_TRUTH


FIRST = ("annotations", 0)
SEGMENT = (*FIRST, "segments_info", 1)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("annotations",), ..., r'not a panoptic JSON \(no "annotations"\)'),
        (("annotations",), 5, '"annotations" is 5; it must be a list'),
        (("images",), ..., '"images" is missing'),
        (("categories",), {}, '"categories" is {}; it must be a list'),
        (("images", 1), 3, r"images\[1\]: is 3, it must be an object"),
        (("images", 1, "id"), 42, r'images\[1\]: "id" 42 occurs twice'),
        (
            ("images", 1, "width"),
            "3",
            r'images\[1\]: "width" is the text "3"; it must be an integer from 1 on',
        ),
        (("categories", 1, "id"), 1, r'categories\[1\]: "id" 1 occurs twice'),
        (("categories", 1, "isthing"), ..., r'categories\[1\]: "isthing" is missing'),
        (("categories", 1, "isthing"), 2, r'categories\[1\]: "isthing" is 2; it must be 0 or 1'),
        ((*FIRST, "image_id"), ..., r'annotations\[0\]: "image_id" is missing'),
        ((*FIRST, "image_id"), 5, 'image 5: has an annotation but is not in "images"'),
        ((*FIRST, "file_name"), None, 'image 42: "file_name" is null; it must be the name'),
        ((*FIRST, "file_name"), "/", 'image 42: "file_name" is the text "/"; it must be the name'),
        ((*FIRST, "file_name"), "..", 'image 42: "file_name" is the text ".."; it must be'),
        ((*FIRST, "segments_info"), {}, 'image 42: "segments_info" is {}; it must be a list'),
        (SEGMENT, [], r"segments_info\[1\]: is \[\], it must be an object"),
        ((*SEGMENT, "id"), 7, r'segments_info\[1\]: "id" 7 occurs twice'),
        ((*SEGMENT, "id"), True, r'segments_info\[1\]: "id" is true; it must be an integer'),
        ((*SEGMENT, "id"), 0, r'segment 0: "id" must be in 1\.\.16777215'),
        ((*SEGMENT, "id"), 2**24, r'segment 16777216: "id" must be in'),
        ((*SEGMENT, "category_id"), 3, 'segment 300: "category_id" 3 is unknown'),
        ((*SEGMENT, "category_id"), ..., 'segment 300: "category_id" is missing'),
        ((*SEGMENT, "iscrowd"), ..., 'segment 300: "iscrowd" is missing'),
        ((*SEGMENT, "area"), 0, 'segment 300: "area" 0 must be positive'),
    ],
)
def test_bad_json(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(LabkitError, match=rf"/a\.json[:,] (image 42, )?{message}"):
        read_changed(tmp_path, path, value)


def test_predictions_need_less(tmp_path: Path) -> None:
    for path in (("images",), ("categories",), (*SEGMENT, "area"), (*SEGMENT, "iscrowd")):
        read_changed(tmp_path, path, ..., predictions_for=[1, 7])
    read_changed(tmp_path, (*SEGMENT, "id"), 0, predictions_for=[1, 7])
    with pytest.raises(LabkitError, match='segment 300: "category_id" 1 is unknown'):
        read_changed(tmp_path, ("images",), ..., predictions_for=[7])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"annotations": [', "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[]", "not a panoptic JSON"),
        (b'[{"image_id": 1, "bbox": [], "score": 1}]', "a COCO detection results file"),
        (b'{"annotations": [{"bbox": [], "category_id": 1}]}', "a COCO detection file"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LabkitError, match=rf"a\.json: {message}"):
        read_json(tmp_path / "a.json")
    with pytest.raises(LabkitError, match=r"b\.json: cannot read the JSON: No such file"):
        read_json(tmp_path / "b.json")


@needs_sample
def test_real_annotations_round_trip() -> None:
    data = read_json(SAMPLE / "panoptic_examples.json")
    categories = Categories.from_coco(data["categories"])
    for annotation in data["annotations"]:
        name = annotation["file_name"]
        panoptic = to_panoptic(
            annotation, read_png(SAMPLE / "panoptic_examples" / name), categories, name
        )
        # Areas and boxes are those that COCO's own tools wrote.
        assert to_annotation(panoptic, annotation["image_id"], name, categories) == annotation


@needs_sample
def test_the_other_formats_of_the_sample_are_told_apart() -> None:
    with pytest.raises(LabkitError, match="a COCO detection file"):
        read_json(SAMPLE / "panoptic_coco_detection_format.json")
    data = read_json(SAMPLE / "panoptic_examples.json")
    annotation = data["annotations"][0]
    two_channels = read_png(SAMPLE / "panoptic_examples_2ch_format" / annotation["file_name"])
    with pytest.raises(LabkitError, match="is in the PNG but not in the JSON's segments_info"):
        to_panoptic(annotation, two_channels, Categories.from_coco(data["categories"]), "2ch")


def test_a_map_with_an_orientation_is_refused(tmp_path: Path) -> None:
    """Readers do not agree on whether they turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for entries, message in ((exif, "has the EXIF orientation 6"), (Image.Exif(), "")):
        Image.new("RGB", (3, 2)).save(tmp_path / "a.png", exif=entries)
        if message:
            with pytest.raises(LabkitError, match=message):
                read_png(tmp_path / "a.png")
        else:
            assert read_png(tmp_path / "a.png").shape == (2, 3)


@pytest.mark.parametrize("size", [(2**31 - 1, 1), (20_000, 20_000)])
def test_a_header_alone_takes_no_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", *size)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(bytes(data))
    with pytest.raises(LabkitError, match=r"more than the 178,956,970|the PNG is \d+ x \d+"):
        read_png(path, (2, 3))
    with pytest.raises(LabkitError, match=r"a\.png: the PNG is"):
        read_png(path)
