"""What counts as a difference between a model and its export."""

import numpy as np
import torch

from labkit.deploy import Result
from labkit.engine.check_export import Differences, compare
from labkit.structures import Detections, Panoptic, Prediction, Segment

SIZE = (10, 20)
BOXES = np.array([[0, 0, 4, 4], [6, 0, 18, 8], [1, 1, 3, 9]], np.float32)
SCORES = np.array([0.9, 0.5, 0.5], np.float32)
LABELS = np.array([0, 1, 1])


def masks(boxes):
    result = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(result, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return result


def prediction():
    detections = Detections(*map(torch.from_numpy, (BOXES, SCORES, LABELS, masks(BOXES))))
    return Prediction(detections)


def result(order=(0, 1, 2)):
    order = list(order)
    return Result(BOXES[order].copy(), SCORES[order].copy(), LABELS[order], masks(BOXES)[order])


def test_nothing_differs_from_itself():
    found = compare(prediction(), result(), SIZE)
    assert found == Differences(pixels=200)
    assert found.within_tolerance


def test_detections_of_equal_score_may_change_places():
    assert compare(prediction(), result((0, 2, 1)), SIZE) == Differences(pixels=200)


def test_each_number_is_the_largest_of_its_kind():
    other = result()
    other.boxes[1, 2] += 2.5
    other.scores[0] -= 0.125
    other.masks[2, 0, :4] ^= True
    found = compare(prediction(), other, SIZE)
    assert found == Differences(boxes=0.125, scores=0.125, masks=4, pixels=200)
    assert not found.within_tolerance


def test_a_missing_detection_and_one_of_another_class_have_no_partner():
    assert compare(prediction(), result((0, 1)), SIZE).unmatched == 1
    other = result()
    other.labels[0] = 1
    assert compare(prediction(), other, SIZE).unmatched == 2


def maps(ids, segments):
    ids = np.array(ids, np.int32)
    own = Panoptic(torch.from_numpy(ids), [Segment(i, label) for i, label in segments])
    return Prediction(panoptic=own), Result(
        panoptic=ids.copy(), segments=[{"id": i, "label": label} for i, label in segments]
    )


def test_segments_may_exchange_their_ids():
    own, _ = maps([[1, 1, 2, 2, 0]], [(1, 5), (2, 5)])
    _, other = maps([[2, 2, 1, 1, 0]], [(1, 5), (2, 5)])
    assert compare(own, other, (1, 5)) == Differences(pixels=5)


def test_pixels_of_another_segment_count_and_segments_need_a_partner_of_their_class():
    own, _ = maps([[1, 1, 2, 2, 0]], [(1, 5), (2, 6)])
    _, other = maps([[1, 1, 1, 2, 0]], [(1, 5), (2, 6)])
    assert compare(own, other, (1, 5)) == Differences(panoptic=1, pixels=5)
    _, other = maps([[1, 1, 2, 2, 0]], [(1, 5), (2, 7)])
    assert compare(own, other, (1, 5)) == Differences(panoptic=2, unmatched=2, pixels=5)


def test_one_pixel_may_be_decided_by_rounding_and_a_ten_thousandth_of_them():
    assert Differences(semantic=1, pixels=100).within_tolerance
    assert not Differences(semantic=2, pixels=10_000).within_tolerance
    assert Differences(panoptic=100, pixels=1_000_000).within_tolerance
    assert not Differences(masks=101, pixels=1_000_000).within_tolerance
    assert not Differences(unmatched=1, pixels=100).within_tolerance
