"""Files of a split in COCO's layout, by its name, the beginning of its name, or alone."""

import re

import pytest

from labkit.datasets.coco.layout import image_folder, split_file
from labkit.errors import LabkitError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("panoptic_val2017", "instances_val", "instances_val2014", "instances_val2017"):
        (tmp_path / "annotations" / f"{name}.json").touch()
    (tmp_path / "annotations" / "instances_test-dev.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "split", "found"),
    [
        ("instances", "val2017", "instances_val2017"),
        ("instances", "val", "instances_val"),  # a whole name comes before the longer ones
        ("instances", "test", "instances_test-dev"),
        ("panoptic", "val", "panoptic_val2017"),
        ("panoptic", None, "panoptic_val2017"),
    ],
)
def test_a_split_is_found(root, kind, split, found):
    path = split_file(root, kind, split)
    assert path == root / "annotations" / f"{found}.json"
    assert image_folder(path, kind) == root / found.removeprefix(f"{kind}_")


@pytest.mark.parametrize(
    ("kind", "split", "message"),
    [
        (
            "instances",
            "val20",
            "has several splits that begin with 'val20'; name one of val2014, val2017",
        ),
        ("instances", None, "has several splits; name one of test-dev, val, val2014, val2017"),
        ("panoptic", "2017", "no split '2017'; it has val2017"),
    ],
)
def test_an_unclear_split_is_refused_with_the_names(root, kind, split, message):
    with pytest.raises(LabkitError, match=f"^{re.escape(str(root))}: {message}$"):
        split_file(root, kind, split)


def test_a_folder_without_annotations_is_named(tmp_path):
    with pytest.raises(LabkitError, match=r"no annotations/panoptic_\*\.json in it"):
        split_file(tmp_path, "panoptic")
