"""Half the bits in the layers: what leaves a network has all of them, and is nearly the same."""

import copy

import pytest
import torch
from helpers.small_models import STRUCTURES, made

from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.predictor import Predictor, load_model
from labkit.models.panoptic_fpn.merge import merge
from labkit.structures import Detections

DATA = Shapes("train", num=2, size=64)


@pytest.mark.parametrize("preset", STRUCTURES)
def test_answers_losses_and_gradients(preset):
    model = made(preset, DATA.categories)
    images, targets = zip(*DATA, strict=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = Predictor(model)(images[0])
        model.train()
        torch.manual_seed(0)
        losses = model(images, targets)
    if found.detections is not None:
        assert found.detections.boxes.dtype == found.detections.scores.dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if "tiny" not in preset:  # random weights and frozen norms: rounding grows from layer to layer
        return
    torch.manual_seed(0)
    exact = copy.deepcopy(model)(images, targets)
    assert {name: pytest.approx(x.item(), rel=0.1, abs=0.05) for name, x in exact.items()} == {
        name: x.item() for name, x in losses.items()
    }


@pytest.mark.parametrize(
    "name", ["panoptic_fpn_tiny", "upsnet_tiny", "detr_panoptic_tiny", "mask2former_tiny"]
)
def test_trained_networks_find_the_same(name):
    data = Shapes("val", num=6)
    exact = evaluate(load_model(name), data, progress=False)
    half = evaluate(load_model(name), data, progress=False, precision="bfloat16")
    assert exact.panoptic.all.pq > 0.3
    assert half.panoptic.all.pq == pytest.approx(exact.panoptic.all.pq, abs=0.05)
    assert half.panoptic.all.pq != exact.panoptic.all.pq  # it was computed in another precision


def test_merge_takes_scores_of_any_precision():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:] = True, True
    scores = torch.tensor([0.75, 0.875], dtype=torch.bfloat16)
    found = Detections(torch.zeros(2, 4), scores, torch.tensor([0, 1]), masks)
    made = merge(found, torch.full((4, 4), 255), DATA.categories)
    assert [s.score for s in made.segments] == [0.875, 0.75]
    assert made.ids.tolist() == [[2] * 4, *[[1] * 4] * 3]
