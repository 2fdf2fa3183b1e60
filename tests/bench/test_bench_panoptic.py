"""``labkit bench panoptic``: the steps run, and the merge is compared on equal terms."""

import pytest
import torch

from labkit.bench import panoptic as bench
from labkit.models.panoptic_fpn.merge import merge
from labkit.structures import Detections


def test_the_scene_leaves_work_for_every_step():
    found, semantic = bench.inputs_of_merge(bench.branch_outputs())
    panoptic = merge(found, semantic, bench.CATEGORIES)
    things = sum(s.label < bench.THINGS for s in panoptic.segments)
    assert 20 < things < bench.OBJECTS  # some are covered by others
    assert len(panoptic.segments) > things + 3
    assert (panoptic.ids == 0).any()


def test_the_steps_are_those_of_both_ways_each_on_what_the_one_before_it_made(monkeypatch):
    monkeypatch.setattr(bench, "_milliseconds", lambda call: call())
    given = bench.branch_outputs()
    steps = bench.steps(given)
    semantic, masks, panoptic, resized, kept, _, upsnet = steps.values()
    assert [name.partition(":")[0] for name in steps] == ["Panoptic FPN"] * 3 + ["UPSNet"] * 4

    assert semantic.shape == bench.SIZE
    things = semantic < bench.THINGS
    assert 0 < things.sum() < things.numel()
    assert (semantic[things] == 0).all()  # all things as one class
    assert masks.shape == (bench.OBJECTS, *bench.SIZE)
    found = Detections(given.boxes, given.scores, given.labels, masks)
    assert torch.equal(panoptic.ids, merge(found, semantic, bench.CATEGORIES).ids)

    sides = (given.boxes[:, 2:] - given.boxes[:, :2]).long().tolist()
    for mask, (width, height) in zip(resized, sides, strict=True):
        assert abs(mask.shape[-1] - width) <= 2
        assert abs(mask.shape[-2] - height) <= 2
    assert 0 < len(kept) < bench.OBJECTS
    assert f"({len(kept)} objects stay)" in "".join(steps)
    assert upsnet.ids.shape == bench.SIZE
    # An object is a segment at most once; the votes may give some of them another class, or none.
    assert 0 < sum(s.label < bench.THINGS for s in upsnet.segments) <= len(kept)


def test_a_step_is_timed_by_its_median_after_a_call_that_does_not_count(monkeypatch):
    clock = iter([0, 0.5, 1, 1.002, 2, 2.004])  # begin and end of three rounds
    monkeypatch.setattr(bench, "ROUNDS", 3)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench._milliseconds(lambda: calls.append(1)) == pytest.approx(4)
    assert len(calls) == 4


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")  # Detectron2's own
@pytest.mark.usefixtures("detectron2")
def test_the_merge_beside_detectron2(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    comparison = bench.compare_merge(bench.branch_outputs())  # raises if the maps differ
    assert comparison.ours_result == comparison.peer_result
