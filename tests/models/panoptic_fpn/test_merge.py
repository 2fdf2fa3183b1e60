"""The heuristic merge: by hand, by property, and beside a slow transcription of its rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.models.panoptic_fpn.merge import merge
from labkit.structures import IGNORE, Categories, Category, Detections

CATEGORIES = Categories(Category(i + 1, f"c{i}", isthing=i < 2) for i in range(4))
CAT, DOG, SKY, GRASS = range(4)


def found(scores, labels, masks):
    masks = torch.as_tensor(np.array(masks)).bool()
    boxes = torch.zeros(len(scores), 4)
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels).long(), masks)


def rows(*filled, size=4):
    """A mask with some of its rows filled."""
    mask = np.zeros((size, size), bool)
    mask[list(filled)] = True
    return mask


def nothing(size=4):
    return Detections(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, size, size).bool()
    )


def test_by_hand():
    semantic = torch.tensor([[SKY] * 4, [DOG] * 4, [GRASS] * 4, [GRASS] * 4])
    # The cat is the most certain; the dog keeps its second row; the third is half covered at most.
    objects = found([0.6, 0.9, 0.4], [DOG, CAT, CAT], [rows(0, 1), rows(1), rows(2)])
    panoptic = merge(objects, semantic, CATEGORIES, min_stuff_area=5)
    assert panoptic.ids.tolist() == [[2] * 4, [1] * 4, [3] * 4, [3] * 4]
    told = [(s.id, s.label, s.score) for s in panoptic.segments]
    assert told == [(1, CAT, pytest.approx(0.9)), (2, DOG, pytest.approx(0.6)), (3, GRASS, None)]


def test_an_object_that_is_mostly_covered_goes():
    semantic = torch.full((4, 4), SKY)
    objects = found([0.9, 0.8], [CAT, DOG], [rows(0, 1), rows(0, 1, 2)])
    # Two of the dog's three rows are covered.
    panoptic = merge(objects, semantic, CATEGORIES, min_stuff_area=1, overlap_thresh=0.5)
    assert [s.label for s in panoptic.segments] == [CAT, SKY]
    panoptic = merge(objects, semantic, CATEGORIES, min_stuff_area=1, overlap_thresh=2 / 3)
    assert [s.label for s in panoptic.segments] == [CAT, DOG, SKY]
    assert panoptic.ids[:, 0].tolist() == [1, 1, 2, 3]


def test_thresholds_are_inclusive():
    semantic = torch.full((4, 4), SKY)
    objects = found([0.5], [CAT], [rows(0)])
    assert len(merge(objects, semantic, CATEGORIES, min_stuff_area=12).segments) == 2
    panoptic = merge(objects, semantic, CATEGORIES, score_thresh=0.5000001, min_stuff_area=17)
    assert panoptic.segments == []
    assert not panoptic.ids.any()


def test_things_of_the_semantic_map_paint_nothing():
    semantic = torch.tensor([[CAT] * 4, [IGNORE] * 4, [SKY] * 4, [DOG] * 4])
    panoptic = merge(nothing(), semantic, CATEGORIES, min_stuff_area=1)
    assert panoptic.ids.tolist() == [[0] * 4, [0] * 4, [1] * 4, [0] * 4]
    assert [s.label for s in panoptic.segments] == [SKY]


def test_only_things_only_stuff_and_no_stuff_categories():
    everything = found([0.9], [DOG], [rows(0, 1, 2, 3)])
    panoptic = merge(everything, torch.full((4, 4), SKY), CATEGORIES, min_stuff_area=0)
    assert [s.label for s in panoptic.segments] == [DOG]
    things = Categories([Category(1, "a", True), Category(2, "b", True)])
    panoptic = merge(found([0.9], [1], [rows(0)]), torch.zeros(4, 4).long(), things)
    assert panoptic.ids.tolist() == [[1] * 4] + [[0] * 4] * 3
    panoptic = merge(nothing(), torch.full((4, 4), IGNORE), CATEGORIES)
    assert panoptic.segments == []


def test_of_equal_scores_the_first_is_painted_first():
    semantic = torch.full((4, 4), SKY)
    masks = [rows(0, 1), rows(1, 2)]
    for _ in range(5):
        panoptic = merge(
            found([0.7, 0.7], [CAT, DOG], masks), semantic, CATEGORIES, min_stuff_area=1
        )
        assert panoptic.ids[:, 0].tolist() == [1, 1, 2, 3]
        assert [s.label for s in panoptic.segments] == [CAT, DOG, SKY]


def test_more_objects_than_sixteen_bits_number():
    side, count = 260, 66_000

    class Pixels:
        """One pixel a mask, made when it is asked for: all at once would be 4 GB."""

        shape = (count, side, side)

        def __getitem__(self, i):
            mask = torch.zeros(side * side, dtype=torch.bool)
            mask[i] = True
            return mask.view(side, side)

    objects = Detections(
        torch.zeros(count, 4), torch.ones(count), torch.zeros(count).long(), Pixels()
    )
    panoptic = merge(objects, torch.full((side, side), SKY), CATEGORIES, min_stuff_area=1)
    assert len(panoptic.segments) == count + 1
    assert panoptic.ids.flatten()[:count].tolist() == list(range(1, count + 1))


def test_what_does_not_fit_is_named():
    with pytest.raises(LabkitError, match="the detections have no masks"):
        merge(
            Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()),
            torch.zeros(4, 4).long(),
            CATEGORIES,
        )
    with pytest.raises(LabkitError, match=r"masks are \(4, 4\) .* semantic map \(4, 5\)"):
        merge(nothing(), torch.zeros(4, 5).long(), CATEGORIES)


def slowly(scores, labels, masks, semantic, score, overlap, stuff_area):
    """The rules of the merge pixel by pixel, with sets."""
    taken, painted, segments = set(), {}, []
    where = [{tuple(p) for p in np.argwhere(m)} for m in masks]
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if scores[i] < score or not where[i]:
            continue
        if len(where[i] & taken) / len(where[i]) > overlap or where[i] <= taken:
            continue
        segments.append(labels[i])
        painted |= {p: len(segments) for p in where[i] - taken}
        taken |= where[i]
    for label in (SKY, GRASS):
        region = {tuple(p) for p in np.argwhere(semantic == label)} - taken
        if region and len(region) >= stuff_area:
            segments.append(label)
            painted |= dict.fromkeys(region, len(segments))
    ids = np.zeros(semantic.shape, int)
    for pixel, segment in painted.items():
        ids[pixel] = segment
    return ids.tolist(), segments


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.5, 0.75]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(0, 12),
)
def test_equals_the_rules_written_slowly(seed, count, score, overlap, area):
    rng = np.random.default_rng(seed)
    scores = [float(np.float32(s)) for s in rng.choice([0.2, 0.5, 0.7, 0.75, 0.9], count)]
    labels = rng.integers(0, 2, count).tolist()
    masks = rng.random((count, 5, 6)) < rng.random((count, 1, 1))
    semantic = rng.choice([CAT, DOG, SKY, GRASS, IGNORE], (5, 6))
    objects = found(scores, labels, masks)
    panoptic = merge(
        objects,
        torch.from_numpy(semantic),
        CATEGORIES,
        score_thresh=score,
        overlap_thresh=overlap,
        min_stuff_area=area,
    )
    ids, expected = slowly(scores, labels, masks, semantic, score, overlap, area)
    assert panoptic.ids.tolist() == ids
    assert [s.label for s in panoptic.segments] == expected
