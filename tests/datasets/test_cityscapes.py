"""Cityscapes' panoptic annotations, on a folder made here as Cityscapes' own tool makes it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.datasets.cityscapes import Cityscapes
from labkit.datasets.cityscapes_categories import cityscapes_panoptic
from labkit.datasets.registry import open_dataset
from labkit.errors import LabkitError
from labkit.structures import IGNORE

# Instance ids: below 1000 a label id (regions, and things that nobody told apart), else label id
# times 1000 plus a number. 1 (own vehicle) and 29 (caravan) are ignored by the evaluation.
STREET = [
    [23, 23, 23, 23, 23, 23, 23, 23],
    [11, 11, 11, 26001, 26001, 24, 24, 29000],
    [7, 7, 26000, 26001, 26001, 33000, 7, 7],
    [7, 1, 1, 1, 1, 1, 1, 7],
]
IDS = ["frankfurt_000000_000294", "munster_000173_000029"]


@pytest.fixture
def root(tmp_path):
    """Two images of two cities; the second one is wholly ignored."""
    folder = tmp_path / "gtFine" / "cityscapes_panoptic_val"
    folder.mkdir(parents=True)
    categories = sorted(cityscapes_panoptic(), key=lambda c: c.id)
    content = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": c.id, "name": c.name, "color": c.color, "supercategory": "", "isthing": thing}
            for c in categories
            for thing in [int(c.isthing)]
        ],
    }
    for image_id, rows in zip(IDS, [STREET, [[1] * 8] * 4], strict=True):
        ids = np.array(rows)
        segments = []
        for number in np.unique(ids).tolist():
            label_id = number if number < 1000 else number // 1000
            category = next((c for c in categories if c.id == label_id), None)
            if category is None:
                ids[ids == number] = 0
                continue
            y, x = np.nonzero(ids == number)
            left, top = int(x.min()), int(y.min())
            box = [left, top, int(x.max()) + 1 - left, int(y.max()) + 1 - top]
            crowd = int(category.isthing and number < 1000)
            segments.append(
                {"id": number, "category_id": label_id, "area": len(x), "bbox": box,
                 "iscrowd": crowd}
            )  # fmt: skip
        png = f"{image_id}_gtFine_panoptic.png"
        rgb = np.stack([ids % 256, ids // 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(folder / png)
        city = tmp_path / "leftImg8bit" / "val" / image_id.split("_")[0]
        city.mkdir(parents=True)
        Image.new("RGB", (8, 4), (len(content["images"]), 0, 0)).save(
            city / f"{image_id}_leftImg8bit.png"
        )
        # The name that createPanopticImgs writes; no such file exists.
        name = f"{image_id}_gtFine_leftImg8bit.png"
        content["images"].append({"id": image_id, "width": 8, "height": 4, "file_name": name})
        content["annotations"].append(
            {"image_id": image_id, "file_name": png, "segments_info": segments}
        )
    folder.with_suffix(".json").write_text(json.dumps(content, sort_keys=True, indent=4))
    return tmp_path


def test_a_street_by_hand(root):
    data = open_dataset(f"cityscapes:{root}", "val")
    assert isinstance(data, Cityscapes)
    assert len(data) == 2
    image, target = data[0]
    assert image.shape == (3, 4, 8)
    assert target["image_id"] == "frankfurt_000000_000294"
    names = data.categories.names
    # In the order of the ids: bicycle 33000, cars 26000 and 26001; the crowd of persons is none.
    assert [names[k] for k in target["labels"]] == ["car", "car", "bicycle"]
    assert target["boxes"].tolist() == [[2, 2, 3, 3], [3, 1, 5, 3], [5, 2, 6, 3]]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [1, 4, 1]
    crowds = [s for s in target["panoptic"].segments if s.iscrowd]
    assert [(s.id, names[s.label]) for s in crowds] == [(24, "person")]
    semantic = target["semantic"]
    assert [names[k] for k in semantic[0, 0:1]] == ["sky"]
    assert [names[k] for k in semantic[1, [0, 3, 5]]] == ["building", "car", "person"]
    assert semantic[3].tolist() == [names.index("road"), *[IGNORE] * 6, names.index("road")]
    assert semantic[1, 7] == IGNORE


def test_an_image_may_be_wholly_ignored(root):
    image, target = Cityscapes(root, "val")[1]
    assert image[0, 0, 0] == 1
    assert target["image_id"] == "munster_000173_000029"
    assert len(target["labels"]) == len(target["panoptic"].segments) == 0
    assert torch.equal(target["semantic"], torch.full((4, 8), IGNORE))


def test_categories_keep_the_order_of_the_train_ids():
    categories = cityscapes_panoptic()
    assert categories.things == range(8)
    assert categories.stuff == range(8, 19)
    by_train_id = [*categories[8:], *categories[:8]]
    assert [c.id for c in by_train_id] == [
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33
    ]  # fmt: skip
    assert [c.name for c in by_train_id] == [
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky",
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip
    assert by_train_id[0].color == (128, 64, 128)
    assert by_train_id[18].color == (119, 11, 32)


def test_what_is_missing_is_named(root):
    path = root / "gtFine" / "cityscapes_panoptic_val.json"
    with pytest.raises(LabkitError, match=r"panoptic_train\.json: .*; the splits here are val\. M"):
        Cityscapes(root, "train")
    image = root / "leftImg8bit" / "val" / "munster" / "munster_000173_000029_leftImg8bit.png"
    image.unlink()
    with pytest.raises(LabkitError, match=r"munster_000173_000029_leftImg8bit\.png: image not f"):
        Cityscapes(root, "val")[1]
    content = json.loads(path.read_text())
    content["categories"][0]["id"] = 0  # as with --use-train-id
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(LabkitError, match=r"not Cityscapes' 19 label ids.*without --use-train-id"):
        Cityscapes(root, "val")
    path.rename(path.with_name("cityscapes_panoptic_val_trainId.json"))
    with pytest.raises(LabkitError, match=r"no such file\. Make it .* without --use-train-id"):
        Cityscapes(root, "val")
