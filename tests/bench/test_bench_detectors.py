from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labkit.bench import detectors as bench
from labkit.bench import detectors_peers as peers
from labkit.bench.detectors_peers import Pair, Setting, detectron2_pair, torchvision_pair
from labkit.bench.detectors_profile import profile
from labkit.cli import bench as command
from labkit.errors import LabkitError
from labkit.models import pasting
from labkit.structures import Detections

SMALL = Setting(picture=(48, 64), short=64, long=107, side=64)

needs_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None,
    reason="needs Detectron2: labkit install detectron2",
)


def test_inputs_are_the_same_every_time_and_of_the_sizes_asked_for() -> None:
    image = peers.picture(SMALL)
    assert image.shape == (3, 48, 64)
    assert torch.equal(image, peers.picture(SMALL))
    images, targets = peers.training_batch(SMALL)
    assert [i.shape for i in images] == [(3, 64, 64)] * 2
    assert all(len(t["boxes"]) > 0 for t in targets)


def test_agreement_by_hand() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2] = True  # 8 pixels
    boxes = torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3]])
    ours = Detections(boxes, torch.tensor([0.9, 0.5]), torch.tensor([1, 2]), masks)
    moved, other = boxes.clone(), masks.clone()
    moved[1, 2] += 0.25
    other[0, 2, :3] = True
    theirs = Detections(moved, torch.tensor([0.9, 0.375]), torch.tensor([1, 0]), other)
    found = bench.agreement(ours, theirs)
    assert found == bench.Agreement(2, 2, 0.25, 0.125, 1, 3, 8)
    fewer = Detections(boxes[:1], ours.scores[:1], ours.labels[:1], masks[:1])
    assert str(bench.agreement(ours, fewer)) == "2 and 1 detections: NOT EQUAL"


@pytest.mark.parametrize(
    "make", [torchvision_pair, pytest.param(detectron2_pair, marks=needs_detectron2)]
)
def test_both_do_the_same_work(make: Callable[[Setting], Pair]) -> None:
    pair = make(SMALL)
    measured = bench.measure_inference(pair, SMALL, profiled=True, rounds=1)
    found = measured.agreement
    assert found is not None
    assert found.ours == found.theirs > 0
    assert found.labels == 0
    apart = (found.boxes, found.scores, found.mask_pixels)
    assert all(a is not None and a < b for a, b in zip(apart, (1e-3, 1e-5, 20), strict=True))
    assert (found.inside_pixels or 0) > 0
    assert measured.comparison.ours_result == pytest.approx(
        measured.comparison.peer_result, rel=1e-5
    )
    assert measured.parts is not None
    assert {"backbone", "pyramid", "RPN", "RoI pooling", "box head", "mask head"} <= set(
        measured.parts
    )
    assert min(measured.parts.values()) >= 0


@needs_detectron2
def test_losses_of_detectron2() -> None:
    pair = detectron2_pair(SMALL)
    c = bench.measure_training(pair, SMALL, profiled=False, rounds=1).comparison
    assert c.ours_result == pytest.approx(c.peer_result, rel=1e-5)


def test_losses_of_torchvision() -> None:
    pair = torchvision_pair(SMALL)
    images, targets = peers.training_batch(SMALL)
    pair.ours.train()
    pair.theirs.train()
    torch.manual_seed(0)
    theirs = pair.losses(images, targets)
    torch.manual_seed(0)
    ours = pair.ours(images, targets)
    names = {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_loc": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_box_reg": "loss_box_reg",
    }
    assert {n: ours[n].item() for n in names} == pytest.approx(
        {n: theirs[t].item() for n, t in names.items()}, rel=1e-5
    )
    # torchvision's mask targets are not cut at one half.
    assert ours["loss_mask"].item() == pytest.approx(theirs["loss_mask"].item(), rel=0.1)


def test_profile_takes_inner_parts_out_of_outer_ones() -> None:
    masks, boxes = torch.rand(3, 28, 28), torch.tensor([[0.0, 0, 20, 20]] * 3)
    parts = profile(lambda: pasting.paste_masks(masks, boxes, (32, 32)))
    assert set(parts) == {"mask pasting", "the rest"}
    assert parts["mask pasting"] > 0


def test_command_without_detectron2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: Setting) -> None:
        raise LabkitError("Detectron2 is not installed; run: labkit install detectron2")

    monkeypatch.setattr(peers, "Setting", lambda: SMALL)
    monkeypatch.setattr(peers, "detectron2_pair", missing)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    numbers = tmp_path / "numbers.json"
    command.detectors(json=numbers, profile=True)
    report = json.loads(numbers.read_text())
    assert [row["peer"] for row in report["inference"] + report["training"]] == ["torchvision"] * 2
    assert (
        report["inference"][0]["agreement"]["ours"] == report["inference"][0]["agreement"]["theirs"]
    )
    assert report["training"][0]["profile_ms"]["backward"] > 0
    assert report["training"][0]["target"] == 1.2
    printed = capsys.readouterr()
    assert printed.err.strip().endswith("run: labkit install detectron2")
    assert "mask head" in printed.out


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is not None, reason="Detectron2 is installed"
)
def test_missing_detectron2_names_the_command() -> None:
    with pytest.raises(LabkitError, match="labkit install detectron2"):
        detectron2_pair(SMALL)
