"""The fates of segments by hand, on random maps, and when segments are moved."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.structures import Categories, Category, Panoptic, Segment
from labkit.widgets import PQMatching
from labkit.widgets.app import png
from labkit.widgets.pq_matching.matching import (
    COLUMNS,
    SegmentContribution,
    draw_pq_matching,
    layers,
    matching,
    move,
    table,
)

CATEGORIES = Categories(
    [Category(1, "square", True), Category(2, "circle", True), Category(3, "sky", False)]
)
SQUARE, CIRCLE, SKY = range(3)


def tiny(rows, labels, crowd=()):
    ids = torch.tensor([[int(digit) for digit in row] for row in rows.split()], dtype=torch.int32)
    return Panoptic(ids, [Segment(i, label, iscrowd=i in crowd) for i, label in labels.items()])


# Left square: 6 true pixels, 4 predicted inside. Right square: 4 true, 2 predicted inside.
TRUTH = tiny("33333333 31113223 31113223 33333333", {1: SQUARE, 2: SQUARE, 3: SKY})
GUESS = tiny("33333333 35533363 35533363 33333333", {5: SQUARE, 6: SQUARE, 3: SKY})


def test_fates_by_hand():
    found = matching(GUESS, TRUTH, CATEGORIES)
    # Squares: one TP, one FP, one FN, so a match adds IoU / 2 to the class, and half of that to
    # the mean over two classes.
    assert found.true[1] == SegmentContribution(
        "TP", 5, pytest.approx(4 / 6), pytest.approx(4 / 6 / 2 / 2)
    )
    assert found.predicted[5] == SegmentContribution(
        "TP", 1, pytest.approx(4 / 6), pytest.approx(1 / 6)
    )
    assert found.true[2] == SegmentContribution("FN", 6, pytest.approx(0.5))
    assert found.predicted[6] == SegmentContribution("FP", 2, pytest.approx(0.5))
    assert found.predicted[3].share == pytest.approx(22 / 26 / 2)
    assert found.quality.all.pq == pytest.approx(23 / 39)


def test_crowds_and_excused_predictions_are_not_counted():
    truth = tiny("11110000", {1: SQUARE}, crowd=[1])
    found = matching(tiny("11110000", {1: SQUARE}), truth, CATEGORIES)
    assert found.true[1].kind == found.predicted[1].kind == "not counted"
    found = matching(tiny("00000220", {2: CIRCLE}), truth, CATEGORIES)
    assert found.predicted[2].kind == "not counted"  # on void


@given(seed=st.integers(0, 10_000))
def test_the_shares_sum_to_pq_and_the_fates_to_the_counts(seed):
    random = np.random.default_rng(seed)

    def some_map(near):
        ids = random.integers(0, 4, (3, 3)).repeat(4, axis=0).repeat(4, axis=1).astype(np.int32)
        if near is not None:
            ids = np.where(random.random(ids.shape) < 0.7, near, ids).astype(np.int32)
        present = [i for i in np.unique(ids).tolist() if i]
        crowd = random.random(4) < 0.2
        segments = [Segment(i, (i + 1) % 3, iscrowd=bool(crowd[i])) for i in present]
        return Panoptic(torch.from_numpy(ids), segments)

    truth = some_map(None)
    guess = some_map(truth.ids.numpy())
    found = matching(guess, truth, CATEGORIES)
    if found.quality.all.n:
        for fates in (found.true, found.predicted):
            assert sum(f.share for f in fates.values()) == pytest.approx(found.quality.all.pq)
    for fates, panoptic, kinds in (
        (found.true, truth, {"TP": "tp", "FN": "fn"}),
        (found.predicted, guess, {"TP": "tp", "FP": "fp"}),
    ):
        for label, own in enumerate(found.quality.per_class):
            of_class = [fates[s.id].kind for s in panoptic.segments if s.label == label]
            for kind, name in kinds.items():
                assert of_class.count(kind) == getattr(own, name)
    for i, fate in found.true.items():
        if fate.kind != "TP" and fate.partner:
            in_g, in_p = truth.ids == i, guess.ids == fate.partner
            union = (in_g | (in_p & (truth.ids != 0))).sum()
            assert fate.iou == pytest.approx(float((in_g & in_p).sum() / union))
            assert fate.iou <= 0.5


def test_a_move_uncovers_void_covers_others_and_loses_what_leaves():
    start = tiny("1122 0033", {1: SQUARE, 2: CIRCLE, 3: SKY})
    moved = move(start, {1: (1, 1)})
    assert moved.ids.tolist() == [[0, 0, 2, 2], [0, 1, 1, 3]]
    assert start.ids.tolist() == [[1, 1, 2, 2], [0, 0, 3, 3]]  # untouched
    assert {s.id for s in move(start, {3: (0, -1)}).segments} == {1, 3}  # 2 is covered
    assert move(start, {2: (1, 0)}).ids.tolist()[0] == [1, 1, 0, 2]
    assert {s.id for s in move(start, {1: (0, 5)}).segments} == {2, 3}
    with pytest.raises(LabkitError, match="cannot move segment 9:"):
        move(start, {9: (1, 0)})


def test_moving_the_right_square_into_place_makes_it_a_match():
    before, after = (
        matching(move(GUESS, offsets), TRUTH, CATEGORIES) for offsets in ({}, {6: (-1, 0)})
    )
    assert before.true[2].iou == after.true[2].iou == pytest.approx(0.5)  # exactly one half is none
    guess = tiny("33333333 35533366 35533366 33333333", {5: SQUARE, 6: SQUARE, 3: SKY})
    assert matching(guess, TRUTH, CATEGORIES).true[2].kind == "FN"
    fits = matching(move(guess, {6: (-1, 0)}), TRUTH, CATEGORIES)
    assert fits.true[2] == SegmentContribution(
        "TP", 6, pytest.approx(1.0), pytest.approx(1 / 2 / 2)
    )


def test_layers_say_the_match_and_pair_it():
    true, predicted = layers(matching(GUESS, TRUTH, CATEGORIES), CATEGORIES)
    assert true.describe(1, 1) == (
        "square 1: TP 0.67 · matches square 5: IoU 0.667 > 0.5 · adds 16.7 of PQ 59.0"
    )
    assert predicted.describe(6, 1) == (
        "square 6: FP · no match, closest is square 2: IoU 0.500 ≤ 0.5"
        " · adds 0 of PQ 59.0, and ½ to the denominator"
    )
    assert true.info[1].match == predicted.info[5].match is not None
    assert true.info[2].match is predicted.info[6].match is None


def test_the_table_has_the_classes_that_occur_and_the_mean():
    quality = matching(GUESS, TRUTH, CATEGORIES).quality
    rows = table(quality, quality)
    assert rows[0] == ("square", "0.667", "1", "1", "1", "66.7", "50.0", "33.3", "33.3")
    assert [row[0] for row in rows] == ["square", "sky", "mean"]
    assert rows[-1][-2:] == ("59.0", "59.0")
    assert all(len(row) == len(COLUMNS) for row in rows)


@pytest.fixture(scope="module")
def scene():
    data = Shapes("val", num=3)
    image, target = data[2]
    truth = target["panoptic"]
    things = [s.id for s in truth.segments if s.label in data.categories.things]
    return image, truth, move(truth, dict.fromkeys(things, (4, -3))), data.categories


def test_the_app_moves_segments_as_the_twin_does(scene):
    image, truth, guess, categories = scene
    app = PQMatching(*scene)
    moved = max(guess.segments, key=lambda s: int((guess.ids == s.id).sum() * (s.label < 3))).id
    for dx, dy in ((-1, 1), (-3, 2)):
        app.viewer._message(
            app.viewer, {"kind": "move", "layer": 1, "id": moved, "dx": dx, "dy": dy}, []
        )
    assert app.error == ""
    assert app.offsets == {moved: (-4, 3)}
    metric = PanopticQuality(categories)
    metric.update(move(guess, app.offsets), truth)
    assert app.matching.quality.all == metric.compute().all
    assert app.matching.quality.all.pq > app.start.quality.all.pq
    assert app.still()[0] == png(
        draw_pq_matching(image, truth, guess, categories, {moved: (-4, 3)})
    )
    app.reset.click()
    assert app.offsets == {}
    assert app.matching.quality.all == app.start.quality.all
    assert app.still()[0] == png(draw_pq_matching(image, truth, guess, categories))


def test_a_segment_cannot_be_pushed_out_and_the_ground_truth_stays(scene):
    app = PQMatching(*scene)
    thing = scene[2].segments[0].id
    app.move(1, thing, 10_000, -10_000)
    assert thing in {s.id for s in app.matching.prediction.segments}
    offsets = dict(app.offsets)
    app.move(0, thing, 1, 1)
    assert app.offsets == offsets


def test_a_failing_move_is_seen(scene):
    app = PQMatching(*scene)
    content = {"kind": "move", "layer": 1, "id": 999, "dx": 1, "dy": 0}
    app.viewer._message(app.viewer, content, [])
    assert app.error == "cannot move segment 999: the prediction has no such segment"
    assert app.offsets == {}


def test_the_figure_is_a_readable_size(scene):
    width, height = Image.open(io.BytesIO(png(draw_pq_matching(*scene)))).size
    assert 700 < width < 1200
    assert 400 < height < 1000
