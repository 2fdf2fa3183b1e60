"""Anchors, matching, sampling, box offsets, levels and pasting: hand-computed numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.models.rcnn.anchors import cell_anchors, grid_anchors
from labkit.models.rcnn.mask_head import crop_masks, paste_masks, paste_masks_by_resizing
from labkit.models.rcnn.matcher import IGNORED, NEGATIVE, POSITIVE, match_boxes, sample_boxes
from labkit.models.rcnn.roi_pooler import PoolerConfig, assign_level, pool
from labkit.ops import roi_align
from labkit.ops.boxes import MAX_LOG_SCALE, clip_boxes, decode_boxes, encode_boxes, larger_than


def test_anchors_of_the_finest_level():
    found = cell_anchors([32], [0.5, 1, 2])
    expected = [[-22.627, -11.314, 22.627, 11.314], [-16, -16, 16, 16]]
    expected.append([-11.314, -22.627, 11.314, 22.627])
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)
    rounded = cell_anchors([32], [0.5], rounded=True)
    assert rounded.tolist() == [[-23, -11, 23, 11]]


def test_anchors_go_row_by_row_and_stay_together_at_a_cell():
    cell = cell_anchors([4, 8], [1])
    found = grid_anchors(cell, height=2, width=3, stride=(10, 20))
    centres = (found[:, :2] + found[:, 2:]) / 2
    assert centres[::2].tolist() == [[0, 0], [20, 0], [40, 0], [0, 10], [20, 10], [40, 10]]
    assert (found[:, 2] - found[:, 0]).tolist() == [4, 8] * 6


def test_matching_by_hand():
    #                    anchors:  a     b     c     d
    iou = torch.tensor([[0.80, 0.50, 0.20, 0.10], [0.10, 0.60, 0.25, 0.25]])
    matched_idxs, match_labels = match_boxes(iou, 0.3, 0.7, allow_low_quality=False)
    assert matched_idxs.tolist() == [0, 1, 1, 1]
    assert match_labels.tolist() == [POSITIVE, IGNORED, NEGATIVE, NEGATIVE]
    # The second object's best is b, which then counts although it overlaps too little.
    _, match_labels = match_boxes(iou, 0.3, 0.7, allow_low_quality=True)
    assert match_labels.tolist() == [POSITIVE, POSITIVE, NEGATIVE, NEGATIVE]


def test_all_equally_best_boxes_are_kept_and_keep_their_own_object():
    iou = torch.tensor([[0.2, 0.2], [0.1, 0.6]])
    matched_idxs, match_labels = match_boxes(iou, 0.3, 0.7, allow_low_quality=True)
    assert match_labels.tolist() == [POSITIVE, POSITIVE]
    assert matched_idxs.tolist() == [0, 1]


def test_without_objects_everything_is_background():
    matched_idxs, match_labels = match_boxes(torch.zeros(0, 3), 0.3, 0.7, allow_low_quality=True)
    assert matched_idxs.tolist() == [0, 0, 0]
    assert match_labels.tolist() == [NEGATIVE] * 3


@given(st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORED]), max_size=60), st.integers(1, 40))
@settings(deadline=None, max_examples=80)
def test_sampling(kinds, number):
    kinds = torch.tensor(kinds, dtype=torch.int8)
    positive, negative = sample_boxes(kinds, number, 0.25)
    assert (kinds[positive] == POSITIVE).all()
    assert (kinds[negative] == NEGATIVE).all()
    assert len(positive.unique()) == len(positive) == min((kinds == 1).sum(), int(number * 0.25))
    assert len(negative.unique()) == len(negative)
    assert len(negative) == min((kinds == 0).sum(), number - len(positive))


def test_offsets_by_hand():
    reference = torch.tensor([[10.0, 20, 30, 60]])  # centre (20, 40), 20 x 40
    box = torch.tensor([[15.0, 30, 35, 70]])  # centre (25, 50), 20 x 40
    found = encode_boxes(box, reference, (10, 10, 5, 5))
    assert found.tolist() == [[2.5, 2.5, 0, 0]]
    wide = torch.tensor([[0.0, 20, 40, 60]])  # twice as wide
    assert encode_boxes(wide, reference, (1, 1, 1, 1))[0, 2].item() == pytest.approx(math.log(2))


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(1, 100), st.floats(1, 100))
@settings(deadline=None, max_examples=80)
def test_decoding_undoes_encoding(offsets, width, height):
    reference = torch.tensor([[5.0, 7, 5 + width, 7 + height]], dtype=torch.float64)
    offsets = torch.tensor([offsets], dtype=torch.float64)
    weights = (10.0, 10.0, 5.0, 5.0)
    decoded = decode_boxes(offsets, reference, weights)
    assert torch.allclose(encode_boxes(decoded, reference, weights), offsets, atol=1e-9)


def test_decoded_sides_are_bounded():
    reference = torch.tensor([[0.0, 0, 16, 16]])
    found = decode_boxes(torch.tensor([[0, 0, 50.0, 1e9]]), reference, (1, 1, 1, 1))
    sides = found[0, 2:] - found[0, :2]
    assert sides.tolist() == pytest.approx([1000, 1000])
    assert math.exp(MAX_LOG_SCALE) * 16 == pytest.approx(1000)


def test_clipping():
    boxes = torch.tensor([[-5.0, -1, 30, 9], [3, 3, 4, 4], [50, 50, 60, 60]])
    found = clip_boxes(boxes, (10, 20))
    assert found.tolist() == [[0, 0, 20, 9], [3, 3, 4, 4], [20, 10, 20, 10]]
    assert larger_than(found, 0.0).tolist() == [True, True, False]
    assert larger_than(found, 1.0).tolist() == [True, False, False]


def test_levels():
    config = PoolerConfig(("p2", "p3", "p4", "p5"))
    sides = torch.tensor([1.0, 111.9, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert assign_level(boxes, config).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pooling_takes_each_box_from_its_level_in_order():
    features = {"p2": torch.randn(2, 3, 40, 40), "p3": torch.randn(2, 3, 20, 20)}
    strides = {"p2": 4, "p3": 8}
    config = PoolerConfig(("p2", "p3"), canonical_box_size=64, canonical_level=1)
    boxes = [torch.tensor([[0.0, 0, 100, 100], [0, 0, 20, 20]]), torch.tensor([[5.0, 5, 90, 90]])]
    found = pool(features, boxes, strides, 7, config)
    large = roi_align(features["p3"], [boxes[0][:1], boxes[1]], 7, 1 / 8, 0, True)
    little = roi_align(features["p2"], [boxes[0][1:], boxes[1][:0]], 7, 1 / 4, 0, True)
    assert torch.equal(found, torch.stack([large[0], little[0], large[1]]))


def test_pasting_by_hand():
    # A mask of ones covers its box: pixels whose centres are inside, and at the border those where
    # at least half of the sample falls on the mask.
    masks, boxes = torch.ones(1, 4, 4), torch.tensor([[2.0, 1.0, 6.0, 4.0]])
    found = paste_masks(masks, boxes, (6, 8))[0]
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(found, expected)
    # The left half of the mask is the left half of the box.
    masks[..., 2:] = 0
    expected[:, 4:] = False
    assert torch.equal(paste_masks(masks, boxes, (6, 8))[0], expected)


def test_pasting_over_the_edge():
    boxes = torch.tensor([[-4.0, -4, 4, 4], [6, 4, 20, 20]])
    for paste in (paste_masks, paste_masks_by_resizing):
        found = paste(torch.ones(2, 28, 28), boxes, (6, 8))
        assert found[0, :4, :4].all()
        assert found[0].sum() in (16, 25)  # torchvision's boxes are a pixel larger
        assert found[1, 4:, 6:].all()
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (6, 8)).shape == (0, 6, 8)


def test_resized_pasting_is_torchvisions():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    torch.manual_seed(0)
    low = torch.rand(20, 2) * 50 - 10
    boxes = torch.cat([low, low + torch.rand(20, 2) * 40 + 1], dim=1)
    masks = torch.rand(20, 28, 28)
    expected = paste_masks_in_image(masks[:, None], boxes, (40, 50))[:, 0] > 0.5
    assert torch.equal(paste_masks_by_resizing(masks, boxes, (40, 50)), expected)


def test_true_masks_are_cut_out_by_the_proposal():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 2:6, 2:4] = True
    found = crop_masks(masks, torch.tensor([1]), torch.tensor([[2.0, 2, 6, 6]]), 2)
    assert found.tolist() == [[[True, False], [True, False]]]
    assert crop_masks(masks, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 2).shape[0] == 0
