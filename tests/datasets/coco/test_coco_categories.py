"""COCO's categories against what is written elsewhere."""

import json
import os
from pathlib import Path

import pytest

from labkit.datasets.coco.categories import coco_ids_1_to_90, coco_panoptic, coco_things
from labkit.structures import Categories


def test_things():
    things = coco_things()
    assert len(things) == len(things.things) == 80
    ids = [c.id for c in things]
    assert ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert (things[0].name, things[11].name, things[79].name) == (
        "person",
        "stop sign",
        "toothbrush",
    )


def test_panoptic():
    both = coco_panoptic()
    assert both[:80] == coco_things()[:]
    assert both.stuff == range(80, 133)
    assert [both[80].id, both[80].name, both[132].id] == [92, "banner", 200]
    assert both[both.label(184)].name == "tree-merged"


def test_all_ids():
    by_id = coco_ids_1_to_90()
    assert [c.id for c in by_id] == list(range(1, 91))
    assert by_id[11].name == by_id[82].name == "N/A"
    assert sum(c.name == "N/A" for c in by_id) == 10
    assert [c for c in by_id if c.name != "N/A"] == list(coco_things())


def test_equal_to_coco_s_own_list():
    folder = os.environ.get("LABKIT_DATA")
    if not folder:
        pytest.skip("set LABKIT_DATA to a folder with coco_panoptic_sample/")
    path = Path(folder) / "coco_panoptic_sample" / "panoptic_examples.json"
    entries = json.loads(path.read_text())["categories"]
    assert coco_panoptic() == Categories.from_coco(entries)
