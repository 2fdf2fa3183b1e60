"""Targets from panoptic maps, on a map small enough to read."""

import torch

from labkit.datasets.targets import target_from_panoptic
from labkit.structures import IGNORE, Categories, Category, Panoptic, Segment

CATEGORIES = Categories([Category(1, "cat", True), Category(5, "sky", False)])
IDS = torch.tensor(
    [
        [9, 9, 0, 4],
        [2, 2, 9, 4],
        [2, 9, 9, 7],
    ],
    dtype=torch.int32,
)


def test_objects_boxes_and_maps_of_a_small_map():
    segments = [Segment(9, 1), Segment(4, 0), Segment(2, 0), Segment(7, 0, iscrowd=True)]
    target = target_from_panoptic(Panoptic(IDS, segments), CATEGORIES, 33)
    assert target["image_id"] == 33
    # Objects 4 and 2 in the map's order; the crowd is none, though it is in both maps.
    assert target["boxes"].tolist() == [[3, 0, 4, 2], [0, 1, 2, 3]]
    assert target["labels"].tolist() == [0, 0]
    assert torch.equal(target["masks"], torch.stack([IDS == 4, IDS == 2]))
    assert target["semantic"].tolist() == [[1, 1, IGNORE, 0], [0, 0, 1, 0], [0, 1, 1, 0]]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == target["semantic"].dtype == torch.int64
    assert target["masks"].dtype == torch.bool


def test_without_objects_the_shapes_remain():
    target = target_from_panoptic(
        Panoptic(torch.ones(3, 4, dtype=torch.int32), [Segment(1, 1)]), CATEGORIES, 0
    )
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 3, 4)
