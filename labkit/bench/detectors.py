"""Mask R-CNN R50-FPN on the CPU against Detectron2 and torchvision: inference and training step.

Both libraries have the same weights and the same input; the report also compares their outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from labkit.bench.detectors_peers import InputSizes, ModelPair, test_image, training_batch
from labkit.bench.detectors_profile import profile
from labkit.bench.peer_comparison import PeerComparison, compare_with_peer, timed
from labkit.engine.predictor import Predictor
from labkit.structures import Detections

INFERENCE_TARGETS = {"Detectron2": 1.3}
TRAINING_TARGET = 1.2
ROUNDS = 3
# The same arithmetic as with any other; the weights stay, so every round has the same losses.
LEARNING_RATE = 0.0


@dataclass(frozen=True)
class Agreement:
    """Differences between two libraries' detections of one image, best score first.

    Attributes:
        ours, theirs: how many there are.
        boxes: greatest difference of a coordinate, in pixels; None where the numbers differ.
        scores: greatest difference.
        labels: how many classes differ.
        mask_pixels: how many pixels differ, over all masks.
        inside_pixels: how many are inside, of labkit's.
    """

    ours: int
    theirs: int
    boxes: float | None = None
    scores: float | None = None
    labels: int | None = None
    mask_pixels: int | None = None
    inside_pixels: int | None = None

    def __str__(self) -> str:
        if self.ours != self.theirs:
            return f"{self.ours} and {self.theirs} detections: NOT EQUAL"
        return (
            f"{self.ours} detections each; boxes differ by up to {self.boxes:.1g} pixels,"
            f" scores by {self.scores:.1g}, {self.labels} classes, and {self.mask_pixels} of"
            f" {self.inside_pixels} mask pixels"
        )


@dataclass(frozen=True)
class DetectorMeasurement:
    """Times of a task, with the difference of the outputs and a profile of labkit.

    Attributes:
        comparison: times; the result is the mean score or the sum of the losses.
        agreement: of the detections; None for training.
        parts: milliseconds by part of labkit's run; None where not asked for.
    """

    comparison: PeerComparison
    agreement: Agreement | None
    parts: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        agreement = None if self.agreement is None else asdict(self.agreement)
        return {**self.comparison.to_json(), "agreement": agreement, "profile_ms": self.parts}


def measure_inference(
    pair: ModelPair, setting: InputSizes, profiled: bool, rounds: int | None = None
) -> DetectorMeasurement:
    """Time ``Predictor`` and the peer from the image to pasted masks, after a warm-up of each."""
    image, predictor = test_image(setting), Predictor(pair.ours, torch.device("cpu"))
    pair.theirs.eval()

    @torch.no_grad()
    def theirs() -> Any:
        return pair.predict([image])[0]

    ours_found = predictor(image).detections
    assert ours_found is not None
    theirs_found = pair.detections(theirs())
    height, width = setting.image
    comparison = compare_with_peer(
        f"inference, {height} x {width} resized to {setting.short}, {len(ours_found)} objects",
        pair.peer,
        lambda: (_seconds(lambda: predictor(image)), _mean_score(ours_found)),
        lambda: (_seconds(theirs), _mean_score(theirs_found)),
        items=1,
        target=INFERENCE_TARGETS.get(pair.peer),
        repeats=rounds or ROUNDS,
    )
    parts = profile(lambda: predictor(image)) if profiled else None
    return DetectorMeasurement(comparison, agreement(ours_found, theirs_found), parts)


def measure_training(
    pair: ModelPair, setting: InputSizes, profiled: bool, rounds: int | None = None
) -> DetectorMeasurement:
    """Time a training step of each: losses, gradients and one step of SGD with momentum."""
    images, targets = training_batch(setting)
    ours = training_step(pair.ours, lambda: pair.ours(images, targets))
    theirs = training_step(pair.theirs, lambda: pair.losses(images, targets))
    ours()
    theirs()
    comparison = compare_with_peer(
        f"training step, 2 images {setting.side} x {setting.side}",
        pair.peer,
        lambda: timed(ours),
        lambda: timed(theirs),
        items=1,
        target=TRAINING_TARGET,
        repeats=rounds or ROUNDS,
    )
    return DetectorMeasurement(comparison, None, profile(ours) if profiled else None)


def agreement(ours: Detections, theirs: Detections) -> Agreement:
    """Compare detections that should be equal."""
    if len(ours) != len(theirs) or len(ours) == 0:
        return Agreement(len(ours), len(theirs))
    assert ours.masks is not None
    assert theirs.masks is not None
    return Agreement(
        len(ours),
        len(theirs),
        (ours.boxes - theirs.boxes).abs().max().item(),
        (ours.scores - theirs.scores).abs().max().item(),
        int((ours.labels != theirs.labels).sum()),
        int((ours.masks != theirs.masks).sum()),
        int(ours.masks.sum()),
    )


def training_step(
    model: nn.Module, losses: Callable[[], dict[str, torch.Tensor]]
) -> Callable[[], float]:
    """Make a training step that samples the same proposals every time and returns the loss."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, LEARNING_RATE, momentum=0.9)

    def step() -> float:
        torch.manual_seed(0)
        optimizer.zero_grad(set_to_none=True)
        total = torch.stack([loss.float() for loss in losses().values()]).sum()
        total.backward()
        optimizer.step()
        return total.item()

    return step


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _mean_score(found: Detections) -> float:
    return found.scores.mean().item()
