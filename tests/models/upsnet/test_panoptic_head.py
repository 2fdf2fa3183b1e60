"""UPSNet's panoptic head: every term by hand, and the frugal fusion beside the plain one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from labkit.models.upsnet.assign_segments import assign_segments
from labkit.models.upsnet.panoptic_argmax import (
    UNKNOWN,
    PixelLabels,
    panoptic_argmax,
    upsample_window,
)
from labkit.models.upsnet.panoptic_head import (
    panoptic_logits,
    prune,
    resized_masks,
    thing_term,
    unknown_term,
    windows_of,
)
from labkit.models.upsnet.postprocess import resize_nearest

# Two things (labels 0 and 1) and two kinds of stuff (2 and 3) on 8 × 8 pixels.
SCORES = torch.full((4, 8, 8), -1.0)
SCORES[2] = 0.0
SCORES[2, :, :4] = 2.0
SCORES[3] = 1.0
SCORES[0, 2:6, 2:6] = 3.0
SCORES[1, :2, 6:] = 2.5
BOX = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
MASK = torch.tensor([[[2.0, 2.0], [-6.0, -6.0]]])
# Stuff 2 wins on the left (2 against 1), stuff 3 on the right (1 against 0). The mask's rows become
# 2, 0, -4, -6 over the box's four, so that the object has 3 + 2, 3 + 0, 3 - 4, 3 - 6 there: it wins
# the first two and loses the others to stuff. Unknown has 2.5 - 0 above on the right, where thing 1
# is without a box, 3 - 3 = 0 in the box, and -1 elsewhere.
WITHOUT_UNKNOWN = [
    [0, 0, 0, 0, 1, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 1, 1],
    [0, 0, 2, 2, 2, 2, 1, 1],
    [0, 0, 2, 2, 2, 2, 1, 1],
    *[[0, 0, 0, 0, 1, 1, 1, 1]] * 4,
]


@pytest.fixture
def windows():
    return windows_of(BOX, (8, 8))


@pytest.mark.parametrize("unknown", [False, True])
def test_a_map_of_8_by_8_pixels(windows, unknown):
    logits = panoptic_logits(SCORES, 2, torch.tensor([0]), MASK, windows, unknown)
    assert logits.shape == (4 if unknown else 3, 8, 8)
    assert logits[2, 2:6, 2].tolist() == [5, 3, -1, -3]
    assert logits[2, :2].abs().sum() == 0  # outside its box
    wanted = torch.tensor(WITHOUT_UNKNOWN)
    if unknown:
        assert logits[3, 0, 6] == 2.5
        assert logits[3, 3, 3] == 0
        assert logits[3, 7, 0] == -1
        wanted[:2, 6:] = 3
    assert torch.equal(logits.argmax(dim=0), wanted)


def test_an_object_competes_with_zero_outside_its_box(windows):
    """Where all stuff is below 0, its 0 is the largest."""
    scores = SCORES.clone()
    scores[2:] = -0.5
    logits = panoptic_logits(scores, 2, torch.tensor([0]), MASK, windows)
    assert logits.argmax(dim=0)[7].tolist() == [2] * 8


def test_without_objects_something_has_zero():
    nothing = windows_of(torch.zeros(0, 4), (8, 8))
    labels, masks = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2)
    logits = panoptic_logits(SCORES, 2, labels, masks, nothing)
    assert logits.shape == (4, 8, 8)
    assert logits[2].abs().sum() == 0
    assert torch.equal(logits[3], SCORES[:2].amax(dim=0))


def test_windows():
    """The first and the last pixel of a box, whole; halves go to the even number."""
    boxes = torch.tensor([[1.5, 0.0, 5.4, 3.5], [0.2, 2.0, 4.5, 9.0], [7.4, 8.0, 7.7, 8.0]])
    windows = windows_of(boxes, (8, 8))
    # Last pixels (4.4, 2.5), (3.5, 8), (6.7, 7): begun 4, 2; 3, 8; 6, 7; nearest 4, 2; 4, 8; 7, 7.
    assert windows.mask == [(0, 3, 1, 5), (2, 8, 0, 4), (8, 8, 7, 7)]  # the last one has no pixel
    assert windows.seg == [(0, 3, 1, 5), (2, 8, 0, 5), (8, 8, 7, 8)]
    masks = resized_masks(torch.ones(3, 2, 2), windows.mask)
    assert [tuple(mask.shape) for mask in masks] == [(3, 4), (6, 4), (0, 0)]
    quarter = windows_of(torch.tensor([[0.0, 4.0, 8.0, 15.0]]), (4, 4), 0.25)
    # Last pixels 7 and 14: 1.75 and 3.5 cells.
    assert quarter.mask == [(1, 4, 0, 2)]
    assert quarter.seg == [(1, 4, 0, 3)]


def test_the_unknown_term_looks_at_the_semantic_part_alone(windows):
    in_boxes = thing_term(SCORES, torch.tensor([1]), windows.seg)  # an object of the other class
    unknown = unknown_term(SCORES, 2, in_boxes)
    assert unknown[3, 3] == 3 - -1
    assert unknown[0, 6] == 2.5


# Pruning


def _mask(height, width, positive):
    mask = torch.full((height * width,), -1.0)
    mask[:positive] = 1.0
    return mask.reshape(height, width)


@pytest.mark.parametrize(
    ("repeated", "label", "kept"),
    [(3, 0, [0, 1]), (4, 0, [0]), (10, 1, [0, 1])],
)
def test_pruning(repeated, label, kept):
    """The second mask has 10 pixels, some of them in the first; other classes do not count."""
    masks = [_mask(1, 10, repeated), _mask(1, 10, 10)]
    found = prune(masks, [(0, 1, 0, 10)] * 2, torch.tensor([0, label]), (2, 12))
    assert found == kept


def test_pruning_drops_empty_masks_and_what_was_dropped_takes_nothing():
    window = [(0, 1, 0, 10)] * 4
    masks = [_mask(1, 10, 0), _mask(1, 10, 5), _mask(1, 10, 10), _mask(1, 10, 10)]
    masks[3][0, :7] = -1  # its three pixels were the third one's, which was dropped
    assert prune(masks, window, torch.zeros(4, dtype=torch.int64), (1, 10)) == [1, 3]


# The frugal fusion


def test_a_window_of_the_enlarged_map():
    torch.manual_seed(0)
    scores = torch.randn(3, 9, 7)
    whole = F.interpolate(scores[None], scale_factor=4.0, mode="bilinear", align_corners=False)[0]
    for window in [(0, 36, 0, 28), (1, 9, 3, 4), (13, 35, 27, 28), (0, 1, 0, 1), (30, 36, 5, 23)]:
        top, bottom, left, right = window
        assert torch.equal(upsample_window(scores, *window), whole[:, top:bottom, left:right])


@pytest.mark.parametrize(("unknown", "third"), [(True, UNKNOWN), (False, 2)])
def test_the_three_pixels_of_the_docstring(unknown, third):
    """Each pixel is one of three equal cells, so that its middle is what its logits say."""
    thing, stuff = [1.0, 3.0, 1.5], [2.0, -1.0, -1.0]
    scores = torch.tensor([thing, stuff]).repeat_interleave(3, dim=1)[:, None]  # (2, 1, 9)
    windows = windows_of(torch.tensor([[12.0, 0.0, 24.0, 4.0]]), (4, 36))
    pixels = panoptic_argmax(
        scores, 1, torch.tensor([0]), [torch.ones(4, 12)], windows, (4, 36), unknown
    )
    assert pixels.winners[:, [5, 17, 29]].tolist() == [[1, 2, third]] * 4
    assert pixels.semantic[:, [5, 17, 29]].tolist() == [[1, 0, 0]] * 4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    objects=st.integers(0, 5),
    things=st.integers(1, 3),
    size=st.tuples(st.integers(33, 44), st.integers(20, 28)),
    unknown=st.booleans(),
    whole_numbers=st.booleans(),
)
def test_winners_are_the_argmax_of_all_logits(seed, objects, things, size, unknown, whole_numbers):
    """Whole numbers are often equal; the first wins then. Objects may fill the image or a pixel."""
    torch.manual_seed(seed)
    scores = torch.randn(things + 2, 11, 8) * 2 - 1
    masks, labels = torch.randn(objects, 4, 4) * 3, torch.randint(things, (objects,))
    if whole_numbers:
        scores, masks = scores.round(), torch.zeros(objects, 4, 4)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corners = torch.rand(objects, 2, 2) * limit
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    if objects > 2:
        boxes[0] = torch.cat([torch.zeros(2), limit])
    windows = windows_of(boxes, size)
    whole = upsample_window(scores, 0, size[0], 0, size[1])
    logits = panoptic_logits(whole, things, labels, masks, windows, unknown)
    pixels = panoptic_argmax(
        scores, things, labels, resized_masks(masks, windows.mask), windows, size, unknown
    )
    # Channels are stuff, objects, unknown; winners are stuff labels, objects after all classes.
    first = (logits == logits.amax(dim=0)).int().argmax(dim=0)
    wanted = first + things
    if unknown:
        wanted[first == len(logits) - 1] = UNKNOWN
    assert torch.equal(pixels.winners, wanted)
    stuff_first = torch.cat([whole[things:], whole[:things]])
    best = (stuff_first == stuff_first.amax(dim=0)).int().argmax(dim=0)
    assert torch.equal(pixels.semantic, (best + things) % len(scores))


# From winners to segments. Labels 0 and 1 are things, 2 and 3 stuff; objects are 4, 5, …


def _assigned(winners, semantic, labels, **limits):
    pixels = PixelLabels(torch.tensor(winners), torch.tensor(semantic))
    scores = torch.linspace(0.9, 0.7, len(labels))
    result = assign_segments(
        pixels, torch.tensor(labels, dtype=torch.int64), scores, 4, 2, **limits
    )
    return result.ids.tolist(), [(s.id, s.label) for s in result.segments]


def test_an_objects_region_votes():
    """Half for one stuff: stuff. Two fifths, though the most, or most for a thing: it stays."""
    winners = [[4, 4, 4, 4, 0], [5] * 5, [6] * 5]
    semantic = [[2, 2, 0, 1, 0], [2, 2, 3, 0, 1], [0, 0, 0, 2, 2]]
    winners[0][4] = 2
    ids, segments = _assigned(winners, semantic, [0, 0, 1], min_stuff_area=1)
    assert segments == [(1, 0), (2, 1), (3, 2)]
    assert ids == [[3] * 5, [1] * 5, [2] * 5]


def test_of_equal_votes_stuff_comes_first():
    ids, segments = _assigned([[4, 4, 4, 4]], [[0, 0, 3, 3]], [0], min_stuff_area=1)
    assert segments == [(1, 3)]
    assert ids == [[1] * 4]


def test_small_stuff_is_void_and_counts_with_what_became_stuff():
    winners = [[2, 2, 3, 3, 4]]
    semantic = [[2, 2, 3, 3, 3]]
    assert _assigned(winners, semantic, [0], min_stuff_area=3) == ([[0, 0, 1, 1, 1]], [(1, 3)])
    assert _assigned(winners, semantic, [0], min_stuff_area=4) == ([[0] * 5], [])


def test_unknown_is_void():
    assert _assigned([[UNKNOWN, 2]], [[0, 2]], [], min_stuff_area=1) == ([[0, 1]], [(1, 2)])


def test_what_no_object_wins_becomes_stuff_or_void():
    assert _assigned([[4, 4]], [[0, 0]], [], min_stuff_area=1) == ([[0, 0]], [])
    assert _assigned([[4, 4]], [[0, 3]], [], min_stuff_area=1) == ([[1, 1]], [(1, 3)])


def test_an_object_without_pixels_has_no_segment():
    ids, segments = _assigned([[5, 5]], [[1, 1]], [0, 1], min_stuff_area=1)
    assert segments == [(1, 1)]
    assert ids == [[1, 1]]


def test_the_nearest_pixel_at_another_size():
    pixels = PixelLabels(torch.arange(12).reshape(3, 4), torch.arange(12).reshape(3, 4))
    small = resize_nearest(pixels, (2, 2), (1.5, 2.0))
    assert small.winners.tolist() == [[0, 2], [4, 6]]
    large = resize_nearest(pixels, (6, 4), (0.5, 1.0))
    assert large.semantic[:, 0].tolist() == [0, 0, 4, 4, 8, 8]
    assert resize_nearest(pixels, (3, 4), (1.0, 1.0)) is pixels
