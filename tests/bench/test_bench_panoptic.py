"""``labkit bench panoptic``: the steps run, and the merge is compared on equal terms."""

import pytest

from labkit.bench import panoptic as bench
from labkit.models.panoptic_fpn.merge import merge


def test_the_scene_leaves_work_for_every_step():
    found, semantic = bench.inputs_of_merge(bench.scene())
    panoptic = merge(found, semantic, bench.CATEGORIES)
    things = sum(s.label < bench.THINGS for s in panoptic.segments)
    assert 20 < things < bench.OBJECTS  # some are covered by others
    assert len(panoptic.segments) > things + 3
    assert (panoptic.ids == 0).any()


def test_steps(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    steps = bench.steps(bench.scene())
    assert len(steps) == 7
    assert all(milliseconds > 0 for milliseconds in steps.values())


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")  # Detectron2's own
@pytest.mark.usefixtures("detectron2")
def test_the_merge_beside_detectron2(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    comparison = bench.compare_merge(bench.scene())  # raises if the maps differ
    assert comparison.ours_result == comparison.peer_result
