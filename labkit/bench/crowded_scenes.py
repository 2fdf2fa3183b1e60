"""Comparison of backbones and fusions on crowded images, with several trainings of each.

The weights that come with labkit, trained without such images, are fine-tuned on them. The fusions
are compared on the same networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from labkit.bench.training_study import Scores, StudyRow, panoptic_scores, scores_of_training
from labkit.checkpoints.run_folder import load_run
from labkit.checkpoints.shipped import shipped
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.presets import TINY_STUFF_AREA
from labkit.models.upsnet.upsnet import UPSNet
from labkit.structures import Panoptic, Prediction
from labkit.system.progress_bars import progress_bar

CHECKPOINTS = (
    "panoptic_fpn_tiny",
    "panoptic_fpn_tiny_1500",
    "panoptic_fpn_tiny_dc5",
    "panoptic_fpn_tiny_c4",
    "upsnet_tiny",
)
"""The middle three were trained alike and differ in the backbone; the first and the last, in the
segmentation heads."""

LEARNING_RATE = 1.5e-3
HEURISTIC = "upsnet_tiny, heuristic merge"
"""The row of UPSNet's networks with Panoptic FPN's merge in the place of the panoptic head."""

COMPARISONS = (
    ("upsnet_tiny", HEURISTIC),
    ("panoptic_fpn_tiny", "upsnet_tiny"),
    ("panoptic_fpn_tiny_1500", "panoptic_fpn_tiny_dc5"),
    ("panoptic_fpn_tiny_1500", "panoptic_fpn_tiny_c4"),
)
"""Pairs that differ in one thing: fusion, method, backbone, backbone."""


def study(out: Path, steps: int, seeds: int, images: int) -> list[StudyRow]:
    """Run the missing trainings and evaluations of the study.

    Args:
        out: folder of the runs; the same call resumes after an interruption.
        steps: of each training.
        seeds: how many trainings from each of :data:`CHECKPOINTS`.
        images: of the crowded variant's ``val``, to measure on.

    Raises:
        LabkitError: a training failed, or ``out`` holds runs with other settings.
    """
    found: dict[str, list[Scores]] = {}
    for seed in range(seeds):
        for start in CHECKPOINTS:
            for name, scores in _one(out / f"{start}-{seed}", start, steps, seed, images).items():
                found.setdefault(name, []).append(scores)
    return [StudyRow(name, tuple(scores)) for name, scores in found.items()]


def _one(folder: Path, start: str, steps: int, seed: int, images: int) -> Mapping[str, Scores]:
    """Scores of one training by name of the fusion."""
    arguments = [shipped()[start].preset, "--data", "crowded", "--init", start]
    arguments += ["--lr", str(LEARNING_RATE), "--seed", str(seed)]
    return scores_of_training(
        folder,
        arguments,
        steps,
        f"scores_{images}.json",
        lambda: measure(load_run(folder), start, images),
    )


def measure(model: nn.Module, name: str, images: int) -> dict[str, Scores]:
    """Compute PQ with the model's own fusion, and for UPSNet also with the heuristic merge."""
    data = Shapes("val", images, crowded=True)
    ways = [name, HEURISTIC] if isinstance(model, UPSNet) else [name]
    metrics = {way: PanopticQuality(data.categories) for way in ways}
    predictor = Predictor(model)
    for i in progress_bar(range(images), unit="image", leave=False):
        image, target = data[i]
        prediction = predictor(image)
        for way, metric in metrics.items():
            found = merged(prediction) if way == HEURISTIC else prediction.panoptic
            assert found is not None
            metric.update(found, target["panoptic"])
    return {way: panoptic_scores(metric.compute()) for way, metric in metrics.items()}


def merged(prediction: Prediction) -> Panoptic:
    """Apply the heuristic merge to a prediction on Shapes, with the tiny presets' thresholds."""
    assert prediction.detections is not None
    assert prediction.semantic is not None
    return merge(
        prediction.detections,
        prediction.semantic,
        Shapes.categories,
        min_stuff_area=TINY_STUFF_AREA,
    )
