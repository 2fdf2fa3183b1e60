from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from labkit.bench import detectors as bench
from labkit.bench import detectors_peers as peers
from labkit.bench.detectors_peers import InputSizes, ModelPair, detectron2_pair, torchvision_pair
from labkit.bench.detectors_profile import profile
from labkit.cli import bench as command
from labkit.errors import LabkitError
from labkit.models.rcnn import mask_head
from labkit.structures import Detections
from labkit.system import optional_packages

SMALL = InputSizes(image=(48, 64), short=64, long=107, side=64)


def _torchvision() -> ModelPair:
    """With small heads: few proposals and detections, for speed."""
    pair = torchvision_pair(SMALL)
    theirs = pair.theirs.roi_heads
    assert isinstance(theirs, RoIHeads)
    theirs.fg_bg_sampler.batch_size_per_image, theirs.detections_per_img = 16, 10
    ours = pair.ours.roi_heads
    ours.config = replace(ours.config, batch_size_per_image=16, detections_per_img=10)
    return pair


@pytest.fixture(scope="module", params=["torchvision", "Detectron2"])
def peer(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "torchvision":
        return _torchvision()
    if problem := optional_packages.problem("detectron2"):
        pytest.skip(problem)
    return detectron2_pair(SMALL)


def test_inputs_are_the_same_every_time_and_of_the_sizes_asked_for() -> None:
    image = peers.test_image(SMALL)
    assert image.shape == (3, 48, 64)
    assert torch.equal(image, peers.test_image(SMALL))
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


def test_both_do_the_same_work(peer: ModelPair) -> None:
    measured = bench.measure_inference(peer, SMALL, profiled=True, rounds=1)
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


def test_both_train_alike(peer: ModelPair) -> None:
    c = bench.measure_training(peer, SMALL, profiled=False, rounds=1).comparison
    assert c.ours_result == pytest.approx(c.peer_result, rel=1e-5)


def test_profile_takes_inner_parts_out_of_outer_ones() -> None:
    masks, boxes = torch.rand(3, 28, 28), torch.tensor([[0.0, 0, 20, 20]] * 3)
    parts = profile(lambda: mask_head.paste_masks(masks, boxes, (32, 32)))
    assert set(parts) == {"mask pasting", "the rest"}
    assert parts["mask pasting"] > 0


def test_profile_by_the_clock_of_the_process_does_not_count_waiting() -> None:
    by_clock = {
        clock: sum(profile(lambda: time.sleep(0.2), clock).values())
        for clock in (time.perf_counter, time.process_time)
    }
    assert by_clock[time.perf_counter] > 190
    assert by_clock[time.process_time] < 100


def test_command_without_detectron2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: InputSizes) -> None:
        raise LabkitError("Detectron2 is not installed; run: labkit install detectron2")

    monkeypatch.setattr(peers, "InputSizes", lambda: SMALL)
    monkeypatch.setattr(peers, "detectron2_pair", missing)
    monkeypatch.setattr(peers, "torchvision_pair", lambda setting: _torchvision())
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


def test_missing_detectron2_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        optional_packages, "problem", lambda name: f"no {name}; run: labkit install {name}"
    )
    with pytest.raises(LabkitError, match="labkit install detectron2"):
        detectron2_pair(SMALL)
