"""From folders of masks to COCO annotations and back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.masks.mask_categories import read_mask_categories
from labkit.datasets.masks.mask_folder import MaskFolder
from labkit.datasets.masks.mask_to_polygons import mask_to_polygons, mask_to_segmentation
from labkit.datasets.sanity_checks import check_annotations
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.structures import IGNORE

SAMPLE = Path(os.environ.get("LABKIT_DATA", "")) / "coco_panoptic_sample"
needs_sample = pytest.mark.skipif(
    "LABKIT_DATA" not in os.environ or not SAMPLE.is_dir(),
    reason="needs COCO's sample images: LABKIT_DATA=FOLDER uv run pytest, with"
    " coco_panoptic_sample/ of the panopticapi project in FOLDER",
)
ENTRIES = [
    {"name": "road", "isthing": False, "value": 7},
    {"name": "car", "isthing": True, "value": 3},
]


def _categories(folder, entries=ENTRIES, name="categories.json"):
    path = folder / name
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def _folders(tmp_path, masks, size=None):
    """Black images and masks (arrays, or dictionaries of files) by name."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, mask in masks.items():
        first = next(iter(mask.values())) if isinstance(mask, dict) else mask
        height, width = size or first.shape[:2]
        black = np.zeros((height, width, 3), np.uint8)
        Image.fromarray(black).save(tmp_path / "images" / f"{name}.jpg")
        if isinstance(mask, dict):
            (tmp_path / "masks" / name).mkdir()
            for file, array in mask.items():
                Image.fromarray(array).save(tmp_path / "masks" / name / file)
        else:
            Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path / "images", tmp_path / "masks"


def test_classes(tmp_path):
    """Regions of a thing that touch by a corner are one, others two; 0 and 255 are nothing."""
    mask = np.array([[3, 0, 3, 3], [7, 3, 255, 255], [7, 7, 7, 3]], np.uint8)
    mask[0, 2:] = 3
    classes = read_mask_categories(_categories(tmp_path))
    data = MaskFolder(*_folders(tmp_path, {"a": mask}), classes)
    image, target = data[0]
    assert image.shape == (3, 3, 4)
    assert [c.name for c in data.categories] == ["car", "road"]
    assert [c.id for c in data.categories] == [2, 1]
    # (0, 0) and (1, 1) touch by a corner, (1, 1) and (0, 2) too; (2, 3) touches none of them.
    assert target["boxes"].tolist() == [[0, 0, 4, 2], [3, 2, 4, 3]]
    assert target["semantic"].tolist() == [
        [0, IGNORE, 0, 0],
        [1, 0, IGNORE, IGNORE],
        [1, 1, 1, 0],
    ]
    assert target["image_id"] == "a"


def test_instances(tmp_path):
    """1000 x value + number: two cars that touch stay two."""
    mask = np.array([[3001, 3002], [7, 3002]], np.uint16)
    classes = read_mask_categories(_categories(tmp_path))
    _, target = MaskFolder(*_folders(tmp_path, {"a": mask}), classes)[0]
    assert target["labels"].tolist() == [0, 0]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [1, 2]


def test_objects(tmp_path):
    """A file for each object; stuff lies below, and the later of two objects on top."""
    first = np.array([[255, 255, 0]], np.uint8)
    second = np.array([[0, 255, 0]], np.uint8)
    files = {"car_1.png": first, "Car 2.png": second, "road.png": np.full((1, 3), 9, np.uint8)}
    classes = read_mask_categories(_categories(tmp_path))
    data = MaskFolder(*_folders(tmp_path, {"a": files}), classes)
    _, target = data[0]
    assert target["semantic"].tolist() == [[0, 0, 1]]
    # In the order of the names: "Car 2" before "car_1", which takes the pixel that both have.
    assert target["masks"].tolist() == [[[True, True, False]]]
    found = [(f.kind, f.text) for f in check_annotations(data)]
    assert ("covered", "car and car share 1 pixel, row 0, column 1") in found


def test_colours_and_a_toml_file(tmp_path):
    toml = """
    void = ["#000000", [9, 9, 9]]
    [[category]]
    name = "car"
    isthing = true
    color = "#ff0000"
    id = 26
    [[category]]
    name = "road"
    isthing = false
    color = [128, 64, 128]
    """
    mask = np.array([[[255, 0, 0], [128, 64, 128]], [[9, 9, 9], [0, 0, 0]]], np.uint8)
    classes = read_mask_categories(_categories(tmp_path, toml, "c.toml"))
    data = MaskFolder(*_folders(tmp_path, {"a": mask}), classes)
    assert data[0][1]["semantic"].tolist() == [[0, 1], [IGNORE, IGNORE]]
    assert data.categories[0].id == 26
    (tmp_path / "masks" / "a.png").unlink()
    mask[1, 0] = (1, 2, 3)
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    with pytest.raises(LabkitError, match=r"a.png: \(1, 2, 3\) at row 1, column 0 \(1 pixel\)"):
        data[0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("", "lists no categories"),
        ("[]", "lists no categories"),
        ("{", "neither JSON nor TOML"),
        ("3", "lists no categories"),
        ([{"name": "", "isthing": True, "value": 1}], "category 1 has no name"),
        ([*ENTRIES, {"name": "Car", "isthing": True, "value": 9}], "'Car' is 'car'; names must"),
        ([{"name": "a", "isthing": True}], "'a': needs either value or color"),
        ([{"name": "a", "value": 1}], "isthing must be true"),
        ([{"isthing": True, "value": 1}], "category 1 has no name"),
        ([*ENTRIES, {"name": "car", "isthing": True, "value": 9}], "listed twice"),
        ([*ENTRIES, {"name": "bus", "isthing": True, "value": 3}], "both have 3"),
        ([*ENTRIES, {"name": "bus", "isthing": True, "color": "#00ff00"}], "others colours"),
        ([*ENTRIES, {"name": "bus", "isthing": True, "color": "#00fg00"}], "neither a value"),
        ([*ENTRIES, {"name": "bus", "isthing": True, "value": 4, "id": 1}], "id 1 is used more"),
        ([{"name": "a", "isthing": True, "color": [1.0, 2, 3]}], "neither a value"),
        ({"categories": ENTRIES, "void": 3}, "void must be a list"),
        ({"categories": ENTRIES, "void": [3]}, "the code of 'car' is in void, too"),
        ("[" * 100_000, "neither JSON nor TOML"),
    ],
)
def test_category_files_that_are_refused(tmp_path, entries, message):
    with pytest.raises(LabkitError, match=message):
        read_mask_categories(_categories(tmp_path, entries))


def test_folders_that_are_refused(tmp_path):
    classes = read_mask_categories(_categories(tmp_path))
    images, masks = _folders(tmp_path, {"a": np.full((2, 2), 7, np.uint8)})
    with pytest.raises(LabkitError, match="no such folder"):
        MaskFolder(images, tmp_path / "nowhere", classes)
    Image.new("L", (2, 2)).save(masks / "b.png")
    with pytest.raises(LabkitError, match="1 mask without an image: b"):
        MaskFolder(images, masks, classes)
    (masks / "b.png").unlink()
    Image.new("L", (3, 2), 7).save(masks / "a.png")
    with pytest.raises(LabkitError, match=r"the mask is 2 x 3, its image 2 x 2 pixels"):
        MaskFolder(images, masks, classes)[0]
    (masks / "a.png").write_bytes(b"no picture")
    with pytest.raises(LabkitError, match="not an image file"):
        MaskFolder(images, masks, classes)[0]
    Image.new("RGB", (2, 2), (7, 0, 0)).save(masks / "a.png")
    with pytest.raises(LabkitError, match="give the categories color instead"):
        MaskFolder(images, masks, classes)[0]


def test_what_programs_leave_behind_is_skipped(tmp_path):
    mask = np.full((2, 2), 7, np.uint8)
    images, masks = _folders(tmp_path, {"a": mask, "b": {"road.png": mask}})
    for path in (images / "._a.jpg", masks / "._a.png", masks / "b" / "._road.png"):
        path.write_bytes(b"resource fork")
    for folder in (masks / ".ipynb_checkpoints", masks / "__MACOSX", masks / "b" / ".hidden"):
        folder.mkdir()
    data = MaskFolder(images, masks, read_mask_categories(_categories(tmp_path)))
    assert [target["semantic"].unique().tolist() for _, target in data] == [[1], [1]]


def test_numbered_objects_of_one_class(tmp_path):
    """Every value but 0 is an object, in as many parts as it is; 0 is what the file says."""
    mask = np.array([[1, 0, 1, 3001], [2, 2, 0, 255]], np.uint16)
    entries = [
        {"name": "ground", "isthing": False, "value": 0},
        {"name": "cell", "isthing": True, "value": 1},
    ]
    folders = _folders(tmp_path, {"a": mask})
    for stuff in (True, False):
        classes = read_mask_categories(_categories(tmp_path, entries if stuff else entries[1:]))
        _, target = MaskFolder(*folders, classes, instances_of="cell")[0]
        assert target["masks"].sum(dim=(1, 2)).tolist() == [2, 2, 1, 1]
        assert target["semantic"][0].tolist() == [0, 1 if stuff else IGNORE, 0, 0]
        with pytest.raises(LabkitError, match=r"2 at row .* say --instances-of 'cell'"):
            MaskFolder(*folders, classes)[0]
    with pytest.raises(
        LabkitError,
        match=r"categories\.json: instances of .* file, which has cell",
    ):
        MaskFolder(*folders, classes, instances_of="dog")


def test_names_of_masks_may_have_a_suffix(tmp_path):
    images, masks = _folders(tmp_path, {"a": np.full((2, 2), 7, np.uint8)})
    (masks / "a.png").rename(masks / "a_mask.png")
    classes = read_mask_categories(_categories(tmp_path))
    with pytest.raises(LabkitError, match=r"1 image without a mask: a; .* --mask-suffix _mask$"):
        MaskFolder(images, masks, classes)
    assert len(MaskFolder(images, masks, classes, suffix="_mask")) == 1


def test_values_that_stand_for_nothing_are_explained(tmp_path):
    random = np.random.default_rng(0)
    entries = [{"name": "cell", "isthing": True, "value": 255}]
    classes = read_mask_categories(_categories(tmp_path, entries))
    images, masks = _folders(tmp_path, {"a": np.eye(16, dtype=np.uint8)})
    with pytest.raises(LabkitError, match=r"1 at .* has the values 0, 1, the category file 255"):
        MaskFolder(images, masks, classes)[0]
    noise = random.integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(noise).save(masks / "a.png")
    with pytest.raises(LabkitError, match=r"So many strange values \(\d+\) come from smooth"):
        MaskFolder(images, masks, classes)[0]
    (masks / "a.png").unlink()
    Image.fromarray(noise).save(masks / "a.jpg")
    with pytest.raises(LabkitError, match="the file is a JPEG, which changes values a little"):
        MaskFolder(images, masks, classes)[0]


def test_more_regions_than_memory_are_refused(tmp_path, monkeypatch):
    mask = np.indices((40, 40)).sum(axis=0).astype(np.uint8) % 2 * 3
    mask[1::2] = 0
    data = MaskFolder(*_folders(tmp_path, {"a": mask}), read_mask_categories(_categories(tmp_path)))
    assert len(data.regions(0)) == 400
    monkeypatch.setattr("labkit.datasets.targets.MOST_MASK_BYTES", 100_000)
    with pytest.raises(LabkitError, match=r"a\.png: 401 objects on 40 x 40 pixels need"):
        data[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_category_files_may_have_a_byte_order_mark(tmp_path, encoding):
    toml = '[[category]]\nname = "käse"\nisthing = true\nvalue = 1\n'
    for name, text in (
        ("c.toml", toml),
        ("c.json", json.dumps([{"name": "käse", "isthing": True, "value": 1}])),
    ):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_mask_categories(tmp_path / name).categories.names == ["käse"]


def test_two_files_of_one_name_are_refused(tmp_path):
    """Neither of them is left out without a word."""
    classes = read_mask_categories(_categories(tmp_path))
    images, masks = _folders(tmp_path, {"a": np.full((2, 2), 7, np.uint8)})
    (masks / "a").mkdir()
    with pytest.raises(LabkitError, match=r"masks: a.png and a have the same name; keep one"):
        MaskFolder(images, masks, classes)
    (masks / "a").rmdir()
    Image.new("RGB", (2, 2)).save(images / "a.png")
    with pytest.raises(LabkitError, match=r"images: a.jpg and a.png have the same name"):
        MaskFolder(images, masks, classes)


def test_stuff_is_one_segment(tmp_path):
    """Whether it has a number, or files of its own for two regions."""
    classes = read_mask_categories(_categories(tmp_path))
    numbers = np.array([[7, 7001, 3001, 7002]], np.uint16)
    files = {
        "road_1.png": np.array([[255, 255, 0, 0]], np.uint8),
        "road_2.png": np.array([[0, 0, 0, 255]], np.uint8),
        "car.png": np.array([[0, 0, 255, 0]], np.uint8),
    }
    data = MaskFolder(*_folders(tmp_path, {"a": numbers, "b": files}), classes)
    for _, target in data:
        assert sorted(s.label for s in target["panoptic"].segments) == [0, 1]
        assert target["semantic"].tolist() == [[1, 1, 0, 1]]


def _as_masks(panoptic, categories):
    """The mask of instances of a panoptic map, whose classes' values are their ids."""
    mask = np.zeros(tuple(panoptic.ids.shape), np.uint16)
    for segment in panoptic.segments:
        value = categories[segment.label].id
        if segment.label in categories.things:
            value = 1000 * value + segment.id
        mask[panoptic.ids.numpy() == segment.id] = value
    return mask


def _same(a, b):
    """Whether two panoptic maps are the same regions with the same labels, whatever their ids."""

    def table(panoptic):
        return {(s.label, (panoptic.ids == s.id).numpy().tobytes()) for s in panoptic.segments}

    return table(a) == table(b)


def _as_files(panoptic, categories):
    """A file for each segment, named by its category."""
    return {
        f"{categories[s.label].name}_{s.id}.png": np.where(
            panoptic.ids.numpy() == s.id, 255, 0
        ).astype(np.uint8)
        for s in panoptic.segments
    }


def _round_trip(tmp_path, originals, categories, written):
    """Masks to annotations to data sets: equal to the originals, polygons to an IoU of 0.99.

    Args:
        written: from a panoptic map to its masks.

    Returns:
        The content of the instance JSON with polygons.
    """
    masks = {f"{i:03d}": written(panoptic, categories) for i, panoptic in enumerate(originals)}
    entries = [
        {"name": c.name, "isthing": c.isthing, "value": c.id, "id": c.id} for c in categories
    ]
    data = MaskFolder(
        *_folders(tmp_path, masks), read_mask_categories(_categories(tmp_path, entries))
    )
    export_coco(data, tmp_path / "exact", split="train")
    export_coco(data, tmp_path / "polygons", split="train", polygons=True)
    maps = CocoPanoptic.from_folder(tmp_path / "exact")
    exact = CocoInstances.from_folder(tmp_path / "exact", "train")
    drawn = CocoInstances.from_folder(tmp_path / "polygons", "train")
    for i, original in enumerate(originals):
        assert _same(maps[i][1]["panoptic"], original)
        truth, other = exact[i][1]["masks"], drawn[i][1]["masks"]
        things = [original.ids == s.id for s in original.segments if s.label in categories.things]
        assert torch.equal(truth.sum(dim=0), torch.stack(things).sum(dim=0))
        shared = (truth & other).sum(dim=(1, 2)) / (truth | other).sum(dim=(1, 2))
        assert float(shared.min()) >= 0.99
    return json.loads((tmp_path / "polygons/annotations/instances_train.json").read_text())


def _average_precision(path):
    """COCO's own AP of masks when every annotation is found with its own outline."""
    truth = COCO(str(path))
    found = [
        {k: a[k] for k in ("image_id", "category_id")}
        | {"segmentation": truth.annToRLE(a), "score": 1.0}
        for a in truth.dataset["annotations"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_pycocotools_accepts_it(tmp_path, capsys):
    """All annotations are read, and all are found again: AP of the truth itself is 1."""
    export_coco(Shapes("val", 4), tmp_path / "exact", split="train")
    export_coco(Shapes("val", 4), tmp_path / "polygons", split="train", polygons=True)
    for form in ("exact", "polygons"):
        annotations = tmp_path / form / "annotations"
        assert _average_precision(annotations / "instances_train.json") == pytest.approx(1)


@pytest.mark.usefixtures("panopticapi")
def test_panopticapi_accepts_it(tmp_path, capsys):
    """All annotations are read, and all are found again: PQ of the truth itself is 1."""
    from panopticapi.evaluation import pq_compute

    export_coco(Shapes("val", 4), tmp_path, split="train")
    path = str(tmp_path / "annotations" / "panoptic_train.json")
    result = pq_compute(path, path)
    assert result["All"]["pq"] == 1
    assert result["All"]["n"] == len(json.loads(Path(path).read_text())["categories"])


def test_round_trip_of_shapes(tmp_path):
    shapes = Shapes("val", 8)
    originals = [target["panoptic"] for _, target in shapes]
    content = _round_trip(tmp_path, originals, shapes.categories, _as_masks)
    forms = [isinstance(a["segmentation"], list) for a in content["annotations"]]
    assert sum(forms) > 0.8 * len(forms)


@needs_sample
def test_round_trip_of_coco(tmp_path):
    data = CocoPanoptic(
        SAMPLE / "panoptic_examples.json", SAMPLE / "panoptic_examples", SAMPLE / "input_images"
    )
    originals = [target["panoptic"] for _, target in data]
    _round_trip(tmp_path, originals, data.categories, _as_files)


def test_a_ring_is_a_run_length_code_and_a_square_is_a_polygon():
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    assert mask_to_segmentation(ring, polygons=True)["size"] == [9, 9]
    square = np.zeros((9, 9), bool)
    square[2:6, 3:8] = True
    (polygon,) = mask_to_segmentation(square, polygons=True)
    again = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 9, 9)))
    assert np.array_equal(again.astype(bool), square)
    assert mask_to_polygons(np.zeros((4, 4), bool)) == []
    assert isinstance(mask_to_segmentation(square, polygons=False), dict)


def test_what_looks_like_a_mistake(tmp_path):
    mask = np.zeros((40, 40), np.uint16)
    mask[:20, :20], mask[:20, 20:30] = 3001, 3002  # touch
    mask[30, 30] = 3003  # a slip of the brush
    classes = read_mask_categories(_categories(tmp_path))
    nothing = np.zeros((40, 40), np.uint16)
    data = MaskFolder(*_folders(tmp_path, {"a": mask, "b": nothing}), classes)
    found = [(f.image, f.kind) for f in check_annotations(data)]
    assert found == [("a", "tiny"), ("a", "touching"), ("a", "unlabelled"), ("b", "empty")]


@pytest.mark.parametrize("start", ["void = " + "[" * 100_000, "a" + ".a" * 50_000 + " = 1"])
def test_a_category_file_deeper_than_anybody_writes(tmp_path, start):
    """Of the second Python's own parser needs ten gigabytes."""
    with pytest.raises(LabkitError, match=r"c\.toml: neither JSON nor TOML"):
        read_mask_categories(_categories(tmp_path, start, "c.toml"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '[{"name": "\\ud800", "isthing": true, "value": 1}]', "1 has no name"),
        ("c.json", '[{"name": "a\\u0000", "isthing": true, "value": 1}]', "1 has no name"),
        ("c.json", f'[{{"name": "a", "isthing": true, "value": 1, "id": {10**100}}}]', "id 1000"),
        ("c.json", '[{"name": "a", "isthing": true, "value": %s}]', r"\[\[\["),
        ("c.toml", '[[category]]\nname = "a"\nisthing = true\nvalue = 2026-01-01', "2026-01-01"),
        ("c.toml", '[[category]]\nname = "a"\nisthing = true\nvalue = 0x' + "f" * 5000, "64 bits"),
    ],
)
def test_a_category_file_with_what_cannot_be_shown(tmp_path, name, text, message):
    text = text.replace("%s", "[" * 940 + "]" * 940)
    with pytest.raises(LabkitError, match=rf"{name}: .*{message}") as caught:
        read_mask_categories(_categories(tmp_path, text, name))
    str(caught.value).encode()
