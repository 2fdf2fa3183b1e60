"""Comparison of backbones and fusions on crowded images, with several trainings of each.

The weights that come with labkit, trained without such images, are fine-tuned on them. Runs of one
setting differ in the seed only. A difference between settings is meaningful only if it clearly
exceeds this spread. The fusions are compared on the same networks.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from labkit.checkpoints.run_folder import load_run, read_run
from labkit.checkpoints.shipped import shipped
from labkit.datasets.coco.panoptic_json import write_json
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
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

Scores = dict[str, float]
"""PQ of all, things and stuff, in percent."""


@dataclass(frozen=True)
class StudyRow:
    """Scores of one setting for all seeds.

    Attributes:
        name: weights that the training began from, or :data:`HEURISTIC`.
        seeds: the scores of each.
    """

    name: str
    seeds: tuple[Scores, ...]

    def mean(self, what: str) -> float:
        return statistics.mean(scores[what] for scores in self.seeds)

    def spread(self, what: str) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        values = [scores[what] for scores in self.seeds]
        return statistics.stdev(values) if len(values) > 1 else 0.0


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


def differences(rows: Sequence[StudyRow], first: str, second: str, what: str) -> list[float]:
    """Difference ``first`` minus ``second`` for each seed."""
    by_name = {row.name: row.seeds for row in rows}
    pairs = zip(by_name[first], by_name[second], strict=True)
    return [a[what] - b[what] for a, b in pairs]


def _one(folder: Path, start: str, steps: int, seed: int, images: int) -> Mapping[str, Scores]:
    """Scores of one training by name of the fusion."""
    command = [sys.executable, "-m", "labkit", "train", shipped()[start].preset]
    command += ["--data", "crowded", "--init", start, "--steps", str(steps)]
    command += ["--lr", str(LEARNING_RATE), "--seed", str(seed)]
    record = folder / f"scores_{images}.json"
    if not record.exists():
        done = subprocess.run([*command, "--out", str(folder)], check=False).returncode
        if done:
            raise LabkitError(f"{folder}: the training ended with status {done}")
        write_json(record, measure(load_run(folder), start, images))
    elif (before := read_run(folder).train["steps"]) != steps:
        raise LabkitError(f"{folder}: was trained for {before} steps; choose another folder")
    scores: dict[str, Scores] = json.loads(record.read_text(encoding="utf-8"))
    return scores


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
    return {
        way: {
            "PQ": 100 * result.all.pq,
            "things": 100 * result.things.pq,
            "stuff": 100 * result.stuff.pq,
        }
        for way, result in ((way, metric.compute()) for way, metric in metrics.items())
    }


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
