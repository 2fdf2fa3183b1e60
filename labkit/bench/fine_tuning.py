"""Fine-tuning a pretrained network against training it from random weights, on Penn-Fudan.

The same network, photographs, augmentation and number of steps. With ImageNet weights the batch
norms are frozen and the backbone learns at half the rate; with random weights everything is
trained.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from labkit.bench.training_study import Scores, StudyRow, scores_of_training
from labkit.checkpoints.run_folder import load_run
from labkit.datasets.registry import open_dataset
from labkit.engine.evaluate import evaluate

DATA = "penn_fudan"
COMMON = (
    *("mask_rcnn_lite", "--data", DATA, "--batch-size", "2", "--lr", "0.0007"),
    *("--scale-jitter", "0.7", "1.6", "--crop", "320"),
)
FINE_TUNED, FROM_RANDOM = "fine-tuned", "from random weights"
SETTINGS = {
    FINE_TUNED: ("--init", "imagenet", "--backbone-lr-factor", "0.5"),
    FROM_RANDOM: (),
}
"""Options of ``labkit train`` beside :data:`COMMON`, by setting."""
METRICS = {"AP": "ap", "AP50": "ap50", "AP75": "ap75"}
SECONDS = "CPU seconds"
"""Score that holds the computing time of a training."""


def study(out: Path, steps: int, seeds: int) -> list[StudyRow]:
    """Run the missing trainings and evaluations of the study.

    Args:
        out: folder of the runs; the same call resumes after an interruption.
        steps: of each training.
        seeds: how many trainings of each setting.

    Raises:
        LabkitError: Penn-Fudan or the pretrained weights are missing, a training failed, or ``out``
            holds runs with other settings.
    """
    open_dataset(DATA, "val")  # missing photographs are reported before a training
    found: dict[str, list[Scores]] = {name: [] for name in SETTINGS}
    for seed in range(seeds):
        for name, options in SETTINGS.items():
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            arguments = [*COMMON, *options, "--seed", str(seed)]
            before = _cpu_seconds()
            scores = scores_of_training(
                folder,
                arguments,
                steps,
                "scores.json",
                lambda folder=folder, before=before: {  # type: ignore[misc]
                    SECONDS: round(_cpu_seconds() - before),
                    **measure(folder),
                },
            )
            found[name].append(dict(scores))
    return [StudyRow(name, tuple(scores)) for name, scores in found.items()]


def measure(folder: Path) -> Scores:
    """Compute the AP of boxes and masks on the held-out photographs."""
    result = evaluate(load_run(folder), open_dataset(DATA, "val")).detection
    assert result is not None
    assert result.segm is not None
    kinds = {"box": asdict(result.bbox), "mask": asdict(result.segm)}
    return {
        f"{kind} {title}": 100 * values[name]
        for kind, values in kinds.items()
        for title, name in METRICS.items()
    }


def _cpu_seconds() -> float:
    """Computing time of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system
