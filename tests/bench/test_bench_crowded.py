"""``labkit bench crowded``: trained once, measured once."""

import pytest
import torch

from labkit.bench import crowded_scenes as bench
from labkit.bench import training_study
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.errors import LabkitError
from labkit.models import build
from labkit.models.panoptic_fpn.merge import merge


def test_a_study_is_not_done_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "CHECKPOINTS", ("panoptic_fpn_tiny",))
    (row,) = bench.study(tmp_path, steps=1, seeds=1, images=2)
    monkeypatch.setattr(training_study.subprocess, "run", None)  # would fail if it were called
    (again,) = bench.study(tmp_path, steps=1, seeds=1, images=2)
    assert again == row
    assert set(row.seeds[0]) == {"PQ", "things", "stuff"}
    with pytest.raises(LabkitError, match="was trained for 1 steps"):
        bench.study(tmp_path, steps=2, seeds=1, images=2)


def test_both_fusions_of_one_network():
    torch.manual_seed(0)
    model = build("upsnet_tiny", Shapes.categories).eval()
    scores = bench.measure(model, "upsnet_tiny", images=3)
    assert set(scores) == {"upsnet_tiny", bench.HEURISTIC}
    whole = evaluate(model, Shapes("val", 3, crowded=True), progress=False)
    assert scores["upsnet_tiny"]["PQ"] == pytest.approx(100 * whole.panoptic.all.pq)
    image, _ = Shapes("val", 1, crowded=True)[0]
    prediction = model([image])[0]
    limits = {"min_stuff_area": 218}
    expected = merge(prediction.detections, prediction.semantic, Shapes.categories, **limits)
    assert torch.equal(bench.merged(prediction).ids, expected.ids)
