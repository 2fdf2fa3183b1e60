"""AP: worked by hand, and the readable version against pycocotools on random detections."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.metrics.average_precision import (
    area_under,
    average_precision,
    match_detections,
    precision_recall,
)
from labkit.metrics.coco_annotations import encode_rle
from labkit.metrics.coco_ap import COCOAP
from labkit.structures import Categories, Category, Detections, Panoptic, Prediction, Segment

CLASSES = Categories(
    [
        Category(7, "cat", True),
        Category(3, "dog", True),
        Category(9, "bird", True),
        Category(1, "grass", False),
    ]
)
SIDE = 16


def _masks(boxes, side=SIDE):
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, np.asarray(boxes, int).reshape(-1, 4), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def _truth(image_id, boxes, labels, side=SIDE):
    masks = _masks(boxes, side)
    return {
        "image_id": image_id,
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def _found(boxes, labels, scores, side=SIDE):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        _masks(boxes, side),
    )


def test_matching_by_hand():
    iou = np.array([[0.6, 0.7], [0.2, 0.9], [0.5, 0.1], [0.55, 0.0]])
    # The first takes its best object though the second overlaps it more; then only object 0 is
    # free, which the second overlaps too little and the third just enough.
    assert match_detections(iou, 0.5).tolist() == [1, -1, 0, -1]
    assert match_detections(iou, 0.65).tolist() == [1, -1, -1, -1]
    assert match_detections(np.array([[0.8, 0.8]]), 0.5).tolist() == [
        1
    ]  # of equals the last, as COCO
    assert match_detections(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]
    assert match_detections(np.zeros((0, 2)), 0.5).tolist() == []


def test_curve_and_area_by_hand():
    scores, matched = np.array([0.3, 0.9, 0.8, 0.5]), np.array([True, True, False, True])
    precision, recall = precision_recall(scores, matched, num_gt=4)
    assert precision == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert recall == pytest.approx([0.25, 0.25, 0.5, 0.75])
    # Recalls 0 .. 0.25 are 26 of the 101 points at precision 1; 0.26 .. 0.75 are 50 at 3/4, for
    # precision may only fall; the other 25 are never reached.
    assert area_under(precision, recall) == pytest.approx((26 + 50 * 0.75) / 101)
    assert area_under(np.zeros(0), np.zeros(0)) == 0


def test_two_images_by_hand():
    pairs = [
        # IoU 0.8 of the cat (a row of five is missing), and a second one on the same cat.
        (
            _found([[0, 0, 4, 5], [0, 0, 5, 5]], [0, 0], [0.9, 0.8]),
            _truth(1, [[0, 0, 5, 5]], [0]),
        ),
        # A dog found as it is, and a bird where there is none in any image.
        (
            _found([[2, 2, 9, 9], [3, 3, 5, 5]], [1, 2], [0.7, 0.9]),
            _truth(2, [[2, 2, 9, 9], [10, 10, 12, 12]], [1, 0]),
        ),
    ]
    for kind in ("boxes", "masks"):
        result = average_precision(pairs, CLASSES, kind)
        # Cats: two objects. Up to IoU 0.8 the first detection is right: recall 0 .. 0.5 at
        # precision 1, 51 points. Above, the second takes the cat: precision 1/2 there.
        expected = [51 / 101] * 7 + [51 / 2 / 101] * 3
        assert result.table[:, 0] == pytest.approx(expected)
        assert result.table[:, 1] == pytest.approx([1] * 10)
        assert np.isnan(result.table[:, 2]).all()
        assert result.ap50 == pytest.approx((51 / 101 + 1) / 2)
        assert result.ap75 == pytest.approx((51 / 101 + 1) / 2)
        assert result.ap == pytest.approx((np.mean(expected) + 1) / 2)


def test_nothing_found_and_nothing_to_find():
    nothing = _found([], [], [])
    missed = average_precision([(nothing, _truth(1, [[0, 0, 2, 2]], [1]))], CLASSES)
    assert missed.ap == 0
    empty = average_precision([(nothing, _truth(1, [], []))], CLASSES)
    assert math.isnan(empty.ap)
    assert math.isnan(average_precision([], CLASSES).ap50)


def test_boxes_alone_have_no_mask_ap():
    found = Detections(torch.ones(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    pairs = [(found, _truth("street/1", [[0, 0, 2, 2]], [0]))]
    with pytest.raises(LabkitError, match="the detections have boxes only"):
        average_precision(pairs, CLASSES, "masks")
    other = _found([[0, 0, 2, 2]], [0], [1.0], side=8)
    with pytest.raises(LabkitError, match=r"street/1: detected masks are \(8, 8\)"):
        average_precision([(other, pairs[0][1])], CLASSES, "masks")


def _random_set(seed, images, objects, tied):
    """Detections around true boxes and elsewhere; classes, counts and scores at random."""
    random = np.random.default_rng(seed)
    pairs = []
    present = random.permutation(3)[: random.integers(1, 4)]  # some classes never occur
    for image_id in range(images):
        count = int(random.integers(0, objects))
        corner = random.integers(0, SIDE - 3, (count, 2))
        size = random.integers(2, 9, (count, 2))
        boxes = np.concatenate([corner, np.minimum(corner + size, SIDE)], axis=1)
        labels = random.choice(present, count)
        times = random.integers(0, 3, count)
        moved = np.repeat(boxes, times, axis=0) + random.integers(-1, 2, (times.sum(), 4))
        moved, moved_labels = np.clip(moved, 0, SIDE), np.repeat(labels, times)
        whole = (moved[:, 2:] > moved[:, :2]).all(axis=1)
        moved, moved_labels = moved[whole], moved_labels[whole]
        stray = np.array([[1, 1, 4, 4]] * int(random.integers(0, 3))).reshape(-1, 4)
        found = np.concatenate([moved, stray])
        found_labels = np.concatenate([moved_labels, random.integers(0, 3, len(stray))])
        scores = random.random(len(found))
        if tied:
            scores = np.round(scores * 4) / 4
        pairs.append((_found(found, found_labels, scores), _truth(image_id, boxes, labels)))
    return pairs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 9), st.booleans())
def test_equals_pycocotools(seed, images, objects, tied):
    pairs = _random_set(seed, images, objects, tied)
    official = COCOAP(CLASSES)
    for found, target in pairs:
        official.update(Prediction(found), target)
    result = official.compute()
    for kind, theirs in (("boxes", result.bbox), ("masks", result.segm)):
        mine = average_precision(pairs, CLASSES, kind)
        for a, b in ((mine.ap, theirs.ap), (mine.ap50, theirs.ap50), (mine.ap75, theirs.ap75)):
            assert a == pytest.approx(b, abs=1e-12, nan_ok=True)
        per_class = [theirs.per_class[label] for label in range(3)]
        assert mine.table.mean(axis=0) == pytest.approx(per_class, abs=1e-12, nan_ok=True)


def test_more_than_a_hundred_detections_of_a_class():
    random = np.random.default_rng(5)
    boxes = np.array([[x, y, x + 2, y + 2] for y in range(0, 24, 2) for x in range(0, 24, 2)])
    wrong = np.tile([0, 0, 5, 5], (144, 1))
    scores = random.random(288)
    found = _found(np.concatenate([boxes, wrong]), [0] * 288, scores, side=24)
    target = _truth(0, boxes, [0] * 144, side=24)
    official = COCOAP(CLASSES)
    official.update(Prediction(found), target)
    mine = average_precision([(found, target)], CLASSES, "boxes")
    assert 0 < mine.ap < 0.5  # at most 100 of 144 can be found at all
    assert mine.ap == pytest.approx(official.compute().bbox.ap, abs=1e-12)


def test_crowds_and_sizes():
    """A crowd swallows the detections on it; each size sees its own objects only."""
    ids = torch.zeros(128, 128, dtype=torch.int32)
    ids[:10, :10], ids[20:60, 20:60], ids[100:, 100:] = 1, 2, 3
    panoptic = Panoptic(ids, [Segment(1, 0), Segment(2, 0), Segment(3, 0, iscrowd=True)])
    target = _truth(0, [[0, 0, 10, 10], [20, 20, 60, 60]], [0, 0], side=128)
    found = _found([[20, 20, 60, 60], [101, 101, 110, 110]], [0, 0], [0.8, 0.9], side=128)
    metric = COCOAP(CLASSES)
    metric.update(Prediction(found), {**target, "panoptic": panoptic})
    for result in (metric.compute().bbox, metric.compute().segm):
        # Half of the objects at precision 1. Without the crowd it would be 1/2.
        assert result.ap == pytest.approx(51 / 101)
        assert (result.small, result.medium) == pytest.approx((0, 1))
        assert math.isnan(result.large)
    without = COCOAP(CLASSES)
    without.update(Prediction(found), target)
    assert without.compute().bbox.ap == pytest.approx(51 / 101 / 2)
    scaled = COCOAP(CLASSES, areas=(7.4**2, 22.2**2))
    scaled.update(Prediction(found), {**target, "panoptic": panoptic})
    assert scaled.compute().segm.large == pytest.approx(1)
    assert scaled.compute().segm.medium == pytest.approx(0)


def test_annotations_of_a_file_replace_the_targets_objects():
    target = _truth(0, [], [])
    found = _found([[0, 0, 4, 4]], [1], [0.9])
    metric = COCOAP(CLASSES)
    annotation = {"category_id": 3, "bbox": [0, 0, 4, 4.5], "area": 17.0, "iscrowd": 0}
    (code,) = encode_rle(_masks([[0, 0, 4, 3]]))
    metric.update(Prediction(found), target, [{**annotation, "segmentation": code}])
    result = metric.compute()
    # The boxes' IoU 16 / 18 = 0.89 is enough for eight of ten thresholds, the masks' 12 / 16 = 0.75
    # for six.
    assert result.bbox.per_class == pytest.approx((np.nan, 0.8, np.nan), nan_ok=True)
    assert result.segm.ap == pytest.approx(0.6)


@pytest.fixture
def two_processes(monkeypatch):
    """Pretend to be one of two processes: a function that sets what the other one holds."""

    def pretend(others):
        def gather(shares, mine):
            shares[:] = [mine, others]

        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_gather_object", gather)

    return pretend


def test_shares_of_two_processes_give_the_whole_to_the_last_bit(two_processes):
    pairs = _random_set(3, 9, 8, tied=True)
    whole, shares = COCOAP(CLASSES), [COCOAP(CLASSES), COCOAP(CLASSES)]
    for i, (found, target) in enumerate(pairs):
        whole.update(Prediction(found), target)
        shares[i % 2].update(Prediction(found), target)
    two_processes(shares[0]._images)
    shares[1].all_reduce()
    assert repr(shares[1].compute()) == repr(whole.compute())  # repr: nan equals nan
    assert whole.compute().bbox.ap > 0


def test_what_cannot_be_measured_is_refused(two_processes):
    metric = COCOAP(CLASSES)
    target = _truth(5, [[0, 0, 2, 2]], [0])
    with pytest.raises(LabkitError, match="image 5: the prediction has no detections"):
        metric.update(Prediction(), target)
    with pytest.raises(LabkitError, match=r"image 5: prediction has label 3; things are 0\.\.2"):
        metric.update(Prediction(_found([[0, 0, 2, 2]], [3], [0.5])), target)
    message = r"detected masks are \(8, 8\), ground-truth masks \(16, 16\)"
    with pytest.raises(LabkitError, match=message):
        metric.update(Prediction(_found([[0, 0, 2, 2]], [0], [0.5], side=8)), target)
    metric.update(Prediction(_found([], [], [])), target)
    with pytest.raises(LabkitError, match="image 5 was counted already"):
        metric.update(Prediction(_found([], [], [])), target)
    two_processes(metric._images)
    with pytest.raises(LabkitError, match="image 5 was counted twice"):
        metric.all_reduce()


def test_boxes_alone_have_box_ap_alone():
    metric = COCOAP(CLASSES)
    found = _found([[0, 0, 2, 2]], [0], [0.5])
    found.masks = None
    metric.update(Prediction(found), _truth(5, [[0, 0, 2, 2]], [0]))
    result = metric.compute()
    assert result.bbox.ap == pytest.approx(1)
    assert result.segm is None
