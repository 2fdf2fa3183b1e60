"""Predicted maps in files: read back, gone on with, and folders of other runs refused."""

import json

import numpy as np
import pytest
import torch

from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png, to_panoptic
from labkit.datasets.coco.panoptic_writer import PanopticWriter
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.panoptic_quality_files import evaluate_files
from labkit.structures import Categories, Category, Panoptic, Segment

CATEGORIES = Categories([Category(7, "road", False), Category(26, "car", True)])
CAR, ROAD = 0, 1
RUN = {"model": "m", "data": "d"}


def panoptic(rows, labels):
    ids = torch.tensor(rows, dtype=torch.int32)
    return Panoptic(ids, [Segment(i, label) for i, label in labels.items()])


SMALL = panoptic([[1, 1, 0], [2, 2, 2]], {1: CAR, 2: ROAD})
VOID_ONLY = panoptic([[0, 0, 0]], {})
HIGH = panoptic([[16_777_215, 5]], {16_777_215: CAR, 5: ROAD})


def writer(folder, run=RUN, split="val", process=0):
    return PanopticWriter(folder, split, run, CATEGORIES, process)


def write(folder, maps, **options):
    out = writer(folder, **options)
    for index, one in maps.items():
        out.add(index, index + 10, one)
    out.close()
    return out


def test_what_is_written_is_read_back(tmp_path):
    path = write(tmp_path / "out", {0: SMALL, 1: VOID_ONLY, 2: HIGH}).finish(3)
    assert path == tmp_path / "out" / "panoptic_val.json"
    content = read_json(path, predictions_for={7, 26})
    assert [c["id"] for c in content["categories"]] == [26, 7]
    first = content["annotations"][0]
    assert first == {
        "image_id": 10,
        "file_name": "000000000010.png",
        "segments_info": [
            {"id": 1, "category_id": 26, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0},
            {"id": 2, "category_id": 7, "area": 3, "bbox": [0, 1, 3, 1], "iscrowd": 0},
        ],
    }
    for annotation, wanted in zip(content["annotations"], (SMALL, VOID_ONLY, HIGH), strict=True):
        png = path.with_suffix("") / annotation["file_name"]
        back = to_panoptic(annotation, read_png(png), CATEGORIES, "x")
        assert torch.equal(back.ids, wanted.ids)
        assert back.segments == wanted.segments


def test_more_than_65535_segments(tmp_path):
    ids = torch.arange(90_000, dtype=torch.int32).reshape(300, 300) * 186 + 1  # up to 16,739,815
    # A segment a pixel, the columns in turn of cars and of road.
    segments = [Segment(i, k % 2) for k, i in enumerate(ids.flatten().tolist())]
    many = Panoptic(ids, segments)
    path = write(tmp_path / "a", {0: many}).finish(1)
    assert np.array_equal(read_png(path.with_suffix("") / "000000000010.png"), ids.numpy())
    # As truth and prediction at once; a table of all pairs of segments would take 60 GB.
    content = json.loads(path.read_bytes())
    content["images"] = [{"id": 10, "file_name": "10.jpg", "height": 300, "width": 300}]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(content))
    result = evaluate_files(truth, path, path.with_suffix(""), workers=1)
    assert (result.all.pq, sum(c.tp for c in result.per_class)) == (1, 90_000)
    quality = PanopticQuality(CATEGORIES)
    quality.update(Panoptic(ids.roll(1, dims=1), segments), many)
    assert quality.counts.tolist() == [[0, 0, 45_000, 45_000]] * 2


def test_what_a_png_cannot_hold_is_refused(tmp_path):
    out = writer(tmp_path)
    with pytest.raises(LabkitError, match=r"image 3: segment ids must be in 0\.\.16777215"):
        out.add(0, 3, panoptic([[16_777_216]], {16_777_216: CAR}))
    with pytest.raises(LabkitError, match=r"image 3: segment 2 is in ids but not in segments"):
        out.add(0, 3, panoptic([[2]], {}))
    with pytest.raises(LabkitError, match=r"image 'a/b': its id cannot be the name of a file"):
        out.add(0, "a/b", SMALL)
    out.close()
    assert not list(tmp_path.glob("**/*.png"))
    with pytest.raises(LabkitError, match=r"1 of 1 maps are missing, the first of image number 0"):
        out.finish(1)
    assert not out.json_path.exists()


def test_goes_on_after_an_interruption(tmp_path):
    write(tmp_path, {0: SMALL, 1: VOID_ONLY, 2: SMALL})
    lines = tmp_path / "panoptic_val.0.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])  # stopped while the third line was written
    (tmp_path / "panoptic_val" / "000000000010.png").unlink()  # and somebody deleted a PNG
    again = writer(tmp_path)
    assert [i in again for i in range(4)] == [False, True, False, False]
    again.add(2, 12, HIGH)
    again.add(0, 10, HIGH)
    again.close()
    content = json.loads(again.finish(3).read_bytes())
    assert [a["image_id"] for a in content["annotations"]] == [10, 11, 12]
    assert [len(a["segments_info"]) for a in content["annotations"]] == [2, 0, 2]
    assert content["annotations"][0]["segments_info"][0]["id"] == 16_777_215
    assert all(i in writer(tmp_path) for i in range(3))


def test_processes_share_a_folder(tmp_path):
    one, two = writer(tmp_path), writer(tmp_path, process=1)
    two.add(1, "b", SMALL)
    one.add(0, "a", SMALL)
    one.close()
    two.close()
    content = json.loads(one.finish(2).read_bytes())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png", "b.png"]


def test_a_folder_holds_one_run(tmp_path):
    write(tmp_path / "out", {0: SMALL}).finish(1)
    write(tmp_path / "out", {0: SMALL}, split="test").finish(1)  # another part of the same
    with pytest.raises(LabkitError, match=r"another run \(model was m, is other\)\. Name another"):
        writer(tmp_path / "out", {**RUN, "model": "other"})
    with pytest.raises(LabkitError, match=r"another run \(data was d, is e\)"):
        writer(tmp_path / "out", {**RUN, "data": "e"}, split="train")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "panoptic_test", "panoptic_test.0.jsonl", "panoptic_test.json",
        "panoptic_val", "panoptic_val.0.jsonl", "panoptic_val.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["panoptic_val.json", "panoptic_train.json", "panoptic_val"])
def test_files_from_elsewhere_are_not_overwritten(tmp_path, name):
    if name.endswith("json"):
        (tmp_path / name).write_text("truth")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(LabkitError, match=rf"{name}: is not from `labkit predict --panoptic`"):
        writer(tmp_path)


def test_a_file_of_lines_without_its_first_is_damaged(tmp_path):
    (tmp_path / "panoptic_val.0.jsonl").write_text('{"index": 0')
    with pytest.raises(LabkitError, match=r"panoptic_val\.0\.jsonl: damaged; delete"):
        writer(tmp_path)
