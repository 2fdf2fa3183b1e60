from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.metrics.semantic import ConfusionMatrix
from labkit.structures import Categories, Category


def test_worked_by_hand() -> None:
    metric = ConfusionMatrix(4)
    target = torch.tensor([[0, 0, 0, 1], [1, 1, 2, 255]])
    prediction = torch.tensor([[0, 0, 1, 1], [1, 255, 0, 3]])
    metric.update(prediction, target)
    assert metric.counts.tolist() == [
        [2, 1, 0, 0, 0],
        [0, 2, 0, 0, 1],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    result = metric.compute()
    # class 0: 2 right, 3 true, 3 predicted; class 1: 2, 3, 3 (one undecided); class 2: 0, 1, 0;
    # class 3 is predicted only where the truth is unknown, so it does not occur.
    assert result.iou[:3] == (2 / 4, 2 / 4, 0)
    assert math.isnan(result.iou[3])
    assert result.miou == pytest.approx(1 / 3)
    assert result.pixel_accuracy == pytest.approx(4 / 7)
    assert result.mean_accuracy == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert result.frequency_weighted_iou == pytest.approx((3 * 0.5 + 3 * 0.5 + 1 * 0) / 7)


def test_a_thing_that_no_object_covers_is_a_wrong_answer() -> None:
    """A semantic branch with one output for all things leaves such pixels undecided (255)."""
    metric = ConfusionMatrix(
        Categories([Category(1, "cat", True), Category(2, "dog", True), Category(3, "sky", False)])
    )
    target = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 255]])
    prediction = torch.tensor([[0, 255, 255, 255], [2, 2, 255, 255]])
    metric.update(prediction, target)
    result = metric.compute()
    assert result.iou == pytest.approx((1 / 2, 0, 2 / 3))
    assert result.pixel_accuracy == pytest.approx(3 / 7)
    assert result.mean_accuracy == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)


def test_a_class_only_predicted_counts_in_miou_but_not_in_accuracy() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0]))
    result = metric.compute()
    assert result.iou == (0.75, 0)
    assert result.miou == 0.375
    assert result.mean_accuracy == result.frequency_weighted_iou == 0.75


def test_nothing_counted_is_nan() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255))
    result = metric.compute()
    values = (result.miou, result.pixel_accuracy, result.mean_accuracy)
    assert all(math.isnan(v) for v in (*result.iou, *values, result.frequency_weighted_iou))


def test_takes_categories_and_small_integers() -> None:
    metric = ConfusionMatrix(Categories([Category(9, "sky", False), Category(4, "cat", True)]))
    labels = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    metric.update(labels, labels)
    assert metric.compute().miou == 1


LABELS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 255]), st.sampled_from([0, 1, 2, 255])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS)
def test_counts_of_parts_add_up(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    whole, left, right = (ConfusionMatrix(3) for _ in range(3))
    for metrics, pairs in (((whole, left), a), ((whole, right), b)):
        prediction, target = torch.tensor(pairs).T
        for metric in metrics:
            metric.update(prediction, target)
    left.all_reduce()  # in a single process it changes nothing
    assert torch.equal(left.counts + right.counts, whole.counts)


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_iou_is_intersection_over_union_of_pixel_sets(pairs: list[tuple[int, int]]) -> None:
    metric = ConfusionMatrix(3)
    metric.update(*torch.tensor(pairs).T)
    known = [(i, p, t) for i, (p, t) in enumerate(pairs) if t != 255]
    for label, iou in enumerate(metric.compute().iou):
        predicted = {i for i, p, _ in known if p == label}
        true = {i for i, _, t in known if t == label}
        if predicted | true:
            assert iou == pytest.approx(len(predicted & true) / len(predicted | true))
        else:
            assert math.isnan(iou)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 1], [0], r"prediction has shape \(2,\), target \(1,\)"),
        ([0, 3], [0, 0], r"prediction has label 3; labels are 0\.\.2 and 255"),
        ([0, 0], [0, -1], "target has label -1"),
    ],
)
def test_bad_input_changes_nothing(prediction: list[int], target: list[int], message: str) -> None:
    metric = ConfusionMatrix(3)
    with pytest.raises(LabkitError, match=message):
        metric.update(torch.tensor(prediction), torch.tensor(target))
    assert metric.counts.sum() == 0


def test_class_counts_that_cannot_be() -> None:
    with pytest.raises(LabkitError, match="got 300"):
        ConfusionMatrix(300)
