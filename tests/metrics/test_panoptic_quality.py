from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.structures import Categories, Category, Panoptic, Segment

CATEGORIES = Categories(
    [
        Category(1, "cat", isthing=True),
        Category(2, "dog", isthing=True),
        Category(7, "sky", isthing=False),
        Category(8, "sea", isthing=False),
    ]
)
CAT, DOG, SKY, SEA = range(4)


def panoptic(rows: list[list[int]], *segments: Segment) -> Panoptic:
    return Panoptic(torch.tensor(rows, dtype=torch.int32), list(segments))


def quality(prediction: Panoptic, target: Panoptic):
    metric = PanopticQuality(CATEGORIES)
    metric.update(prediction, target)
    return metric.compute()


def counts(result, label: int) -> tuple[float, int, int, int]:
    c = result.per_class[label]
    return c.iou_sum, c.tp, c.fp, c.fn


def test_worked_by_hand() -> None:
    target = panoptic(
        [
            [5, 5, 5, 5, 5, 5],
            [1, 1, 1, 5, 2, 2],
            [1, 1, 1, 5, 2, 2],
            [0, 0, 6, 6, 6, 6],
        ],
        Segment(5, SKY),
        Segment(1, CAT),
        Segment(2, CAT),
        Segment(6, SEA),
    )
    prediction = panoptic(
        [
            [9, 9, 9, 9, 9, 9],
            [3, 3, 9, 9, 4, 4],
            [3, 3, 9, 9, 4, 4],
            [3, 7, 7, 7, 7, 7],
        ],
        Segment(9, SKY),
        Segment(3, CAT),
        Segment(4, DOG),
        Segment(7, SEA),
    )
    result = quality(prediction, target)
    # sky: 8 pixels shared of 8 + 10 - 8. cat 1: 4 shared; 3 has 5 pixels, one of them on void, so
    # 4 / (5 + 6 - 4 - 1). cat 2 is missed, the dog is wrong. sea: 4 / (5 + 4 - 4 - 1).
    assert counts(result, SKY) == (8 / 10, 1, 0, 0)
    assert counts(result, CAT) == (4 / 6, 1, 0, 1)
    assert counts(result, DOG) == (0, 0, 1, 0)
    assert counts(result, SEA) == (1, 1, 0, 0)
    cat, dog = result.per_class[CAT], result.per_class[DOG]
    assert (cat.sq, cat.rq, cat.pq) == (4 / 6, 1 / 1.5, pytest.approx(4 / 9))
    assert (dog.sq, dog.rq, dog.pq) == (0, 0, 0)
    assert result.things.pq == pytest.approx((4 / 9 + 0) / 2)
    assert result.stuff.pq == pytest.approx((0.8 + 1) / 2)
    assert result.all.pq == pytest.approx((4 / 9 + 0 + 0.8 + 1) / 4)
    assert (result.all.n, result.things.n, result.stuff.n) == (4, 2, 2)
    assert (cat.category_id, cat.name, cat.isthing) == (1, "cat", True)


def test_iou_of_one_half_is_no_match() -> None:
    target = panoptic([[1, 1, 0, 0]], Segment(1, CAT))
    half = panoptic([[2, 0, 0, 0]], Segment(2, CAT))
    assert counts(quality(half, target), CAT) == (0, 0, 1, 1)


def test_prediction_mostly_on_void_is_excused() -> None:
    target = panoptic([[0, 0, 5, 5, 5, 5, 5]], Segment(5, SKY))
    excused = panoptic([[3, 3, 3, 5, 5, 5, 5]], Segment(3, CAT), Segment(5, SKY))
    half = panoptic([[0, 3, 3, 5, 5, 5, 5]], Segment(3, CAT), Segment(5, SKY))
    assert counts(quality(excused, target), CAT) == (0, 0, 0, 0)
    assert counts(quality(half, target), CAT) == (0, 0, 1, 0)


def test_crowd_excuses_its_own_category_and_is_never_missed() -> None:
    target = panoptic([[1, 1, 1, 1, 5, 5]], Segment(1, CAT, iscrowd=True), Segment(5, SKY))
    cat = panoptic([[2, 3, 3, 3, 5, 5]], Segment(2, CAT), Segment(3, CAT), Segment(5, SKY))
    dog = panoptic([[2, 2, 2, 2, 5, 5]], Segment(2, DOG), Segment(5, SKY))
    assert counts(quality(cat, target), CAT) == (0, 0, 0, 0)
    assert counts(quality(dog, target), DOG) == (0, 0, 1, 0)
    assert counts(quality(dog, target), CAT) == (0, 0, 0, 0)


def test_of_two_crowds_of_a_category_the_last_listed_excuses() -> None:
    """panopticapi's rule, kept so that numbers agree with published ones."""
    first, last = Segment(1, CAT, iscrowd=True), Segment(2, CAT, iscrowd=True)
    rows = [[1, 1, 2, 2]]
    prediction = panoptic([[3, 3, 0, 0]], Segment(3, CAT))
    assert counts(quality(prediction, panoptic(rows, first, last)), CAT) == (0, 0, 1, 0)
    assert counts(quality(prediction, panoptic(rows, last, first)), CAT) == (0, 0, 0, 0)


def test_nothing_counted_is_nan() -> None:
    result = PanopticQuality(CATEGORIES).compute()
    assert result.all.n == 0
    assert all(math.isnan(v) for v in (result.all.pq, result.all.sq, result.all.rq))
    assert all(math.isnan(c.pq) and math.isnan(c.sq) and math.isnan(c.rq) for c in result.per_class)


def test_maps_need_not_be_contiguous() -> None:
    target = panoptic([[1, 5], [1, 5], [1, 5]], Segment(1, CAT), Segment(5, SKY))
    turned = Panoptic(target.ids.T.contiguous().T, target.segments)
    assert not turned.ids.is_contiguous()
    assert quality(turned, target).all.pq == 1


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (panoptic([[1]], Segment(1, CAT)), r"prediction: is 1 x 1 pixels .* target is 1 x 2"),
        (panoptic([[1, 4]], Segment(1, CAT)), "prediction: segment 4 is in ids but not in segm"),
        (
            panoptic([[1, 1]], Segment(1, CAT), Segment(9, DOG)),
            "prediction: segment 9 is in segments but not in ids",
        ),
        (
            panoptic([[1, 1]], Segment(1, 4)),
            r"prediction: segment 1 has label 4; labels are 0\.\.3",
        ),
    ],
)
def test_bad_input_changes_nothing(prediction: Panoptic, message: str) -> None:
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(LabkitError, match=message):
        metric.update(prediction, panoptic([[1, 5]], Segment(1, CAT), Segment(5, SKY)))
    assert metric.compute().all.n == 0


@st.composite
def maps(draw: st.DrawFn, crowd: bool) -> Panoptic:
    """6 × 7 maps with void and up to six segments."""
    ids = torch.tensor(
        draw(st.lists(st.integers(0, 6), min_size=42, max_size=42)), dtype=torch.int32
    ).reshape(6, 7)
    # Rows repeat, so that segments are large enough to match now and then.
    ids = ids[torch.tensor(draw(st.lists(st.integers(0, 2), min_size=6, max_size=6)))]
    present = [i for i in ids.unique().tolist() if i]
    return Panoptic(
        ids,
        [
            Segment(i, draw(st.integers(0, 3)), iscrowd=crowd and draw(st.booleans()))
            for i in draw(st.permutations(present))
        ],
    )


def relabelled(p: Panoptic, new_ids: list[int]) -> Panoptic:
    """The same map under other ids."""
    table = torch.tensor([0, *new_ids], dtype=torch.int32)
    segments = [dataclasses.replace(s, id=new_ids[s.id - 1]) for s in p.segments]
    return Panoptic(table[p.ids.long()], segments)


PAIRS = st.tuples(maps(crowd=False), maps(crowd=True))
FAST = settings(max_examples=60, deadline=None)


@FAST
@given(maps(crowd=False))
def test_a_map_equals_itself(p: Panoptic) -> None:
    result = quality(p, p)
    assert all(c.pq == c.sq == c.rq == 1 for c in result.per_class if c.tp)
    assert sum(c.tp for c in result.per_class) == len(p.segments)
    assert sum(c.fp + c.fn for c in result.per_class) == 0


@FAST
@given(PAIRS, st.permutations([11, 2, 70_000, 5, 999, 16_000_000]))
def test_ids_are_only_names(pair: tuple[Panoptic, Panoptic], ids: list[int]) -> None:
    expected = PanopticQuality(CATEGORIES)
    expected.update(*pair)
    actual = PanopticQuality(CATEGORIES)
    actual.update(relabelled(pair[0], ids), relabelled(pair[1], ids[::-1]))
    np.testing.assert_allclose(actual.counts, expected.counts, rtol=0, atol=1e-14)


@FAST
@given(st.lists(PAIRS, min_size=1, max_size=4), st.integers(0, 4))
def test_counts_of_parts_add_up_to_the_whole(
    pairs: list[tuple[Panoptic, Panoptic]], cut: int
) -> None:
    whole, left, right = (PanopticQuality(CATEGORIES) for _ in range(3))
    for i, pair in enumerate(pairs):
        whole.update(*pair)
        (left if i < cut else right).update(*pair)
    left.all_reduce()  # in a single process it changes nothing
    np.testing.assert_allclose(left.counts + right.counts, whole.counts, rtol=0, atol=1e-14)


@FAST
@given(PAIRS)
def test_quality_is_a_product_within_bounds(pair: tuple[Panoptic, Panoptic]) -> None:
    prediction, target = pair
    result = quality(prediction, target)
    for label, c in enumerate(result.per_class):
        assert c.tp + c.fn == sum(s.label == label and not s.iscrowd for s in target.segments)
        assert c.tp + c.fp <= sum(s.label == label for s in prediction.segments)
        if c.tp + c.fp + c.fn:
            assert c.pq == pytest.approx(c.sq * c.rq, abs=1e-15)
            assert 0 <= c.pq <= c.rq <= 1
            assert c.sq == 0 or 0.5 < c.sq <= 1
