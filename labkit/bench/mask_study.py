"""Studies of mask classification on Shapes, with several seeds.

:func:`ablations` trains Mask2Former with one part changed at a time. :func:`systems` trains the
course's four panoptic systems on from the weights that come with labkit, for equal steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from labkit.bench.training_study import Scores, StudyRow, panoptic_scores, scores_of_training
from labkit.checkpoints.run_folder import load_run, start_from
from labkit.checkpoints.shipped import shipped
from labkit.datasets.augmentation import Augmentation
from labkit.datasets.coco.panoptic_json import write_json
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import TransformedDataset
from labkit.engine.evaluate import evaluate
from labkit.engine.train import TrainConfig, train
from labkit.errors import LabkitError
from labkit.models.backbones.frozen_norm import freeze_norms
from labkit.models.mask2former.mask2former import Mask2Former
from labkit.models.preprocess import Batch
from labkit.models.presets import MASK2FORMER_TINY
from labkit.structures import Target

BACKBONE = "panoptic_fpn_tiny"
"""Weights whose backbone, pyramid included, begins each training of the ablations."""

MASKED, NOT_MASKED = "Mask2Former", "attention without masks"
LAST_LOSS, MANY_POINTS = "loss of the last layer only", "losses on 16,384 points"
CONFIGS = {
    MASKED: MASK2FORMER_TINY,
    NOT_MASKED: replace(MASK2FORMER_TINY, decoder=replace(MASK2FORMER_TINY.decoder, masked=False)),
    LAST_LOSS: MASK2FORMER_TINY,
    MANY_POINTS: replace(
        MASK2FORMER_TINY,
        loss=replace(MASK2FORMER_TINY.loss, num_points=128**2, oversample=1, importance=0.0),
    ),
}
"""Configuration of each ablation; 16,384 uniform points are as many as an image has pixels."""

SECONDS = "CPU seconds a step"
"""Score that holds the computing time of a step."""

SYSTEMS = ("panoptic_fpn_tiny", "upsnet_tiny", "detr_panoptic_tiny", "mask2former_tiny")
DATA = ("shapes", "crowded")
LEARNING_RATE = 1e-3


class LastLoss(Mask2Former):
    """Mask2Former without the losses of the predictions before the last one."""

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        losses = super().losses(features, batch, targets)
        return {name: losses[name] for name in ("loss_ce", "loss_mask", "loss_dice")}


def ablations(out: Path, steps: int, seeds: int, images: int) -> list[StudyRow]:
    """Train Mask2Former on Shapes with one part changed at a time.

    Args:
        out: folder of the runs; the same call resumes after an interruption.
        steps: of each training.
        seeds: how many trainings of each of :data:`CONFIGS`.
        images: of ``val``, to measure on.

    Raises:
        LabkitError: ``out`` holds runs with other settings.
    """
    found: dict[str, list[Scores]] = {name: [] for name in CONFIGS}
    for seed in range(seeds):
        for i, name in enumerate(CONFIGS):
            folder = out / f"ablation-{i}-{seed}"
            found[name].append(_ablation(folder, name, steps, seed, images))
    return [StudyRow(name, tuple(scores)) for name, scores in found.items()]


def _ablation(folder: Path, name: str, steps: int, seed: int, images: int) -> Scores:
    """Train one variant and measure it, unless the folder already has the scores."""
    file = folder / f"scores_{images}.json"
    if file.exists():
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["steps"] != steps:
            raise LabkitError(
                f"{folder}: was trained for {record['steps']} steps; choose another folder"
            )
        scores: Scores = record["scores"]
        return scores
    folder.mkdir(parents=True, exist_ok=True)
    data = Shapes("train")
    torch.manual_seed(seed)
    network = LastLoss if name == LAST_LOSS else Mask2Former
    model = network(CONFIGS[name], data.categories)
    freeze_norms(model)
    start_from(model, shipped()[BACKBONE].load(), "backbone")
    config = TrainConfig(steps=steps, lr=2e-3, backbone_lr_factor=0.5, seed=seed)
    images_of_training = TransformedDataset(data, Augmentation().joint(None))
    times = [time.process_time()]  # of this process: a resumed training's steps, all or some
    train(
        model,
        images_of_training,
        config,
        out=folder,
        on_step=lambda step, losses: times.append(time.process_time()),
    )
    scores = measure(model, "shapes", images)
    if len(times) > 1:
        scores[SECONDS] = (times[-1] - times[0]) / (len(times) - 1)
    write_json(file, {"steps": steps, "scores": scores})
    return scores


def systems(out: Path, steps: int, seeds: int, images: int) -> dict[str, list[StudyRow]]:
    """Train the four panoptic systems on, on Shapes and on crowded images.

    Args:
        out, steps, seeds, images: as in :func:`ablations`.

    Returns:
        Rows by name of the data.

    Raises:
        LabkitError: a training failed, or ``out`` holds runs with other settings.
    """
    rows = {}
    for data in DATA:
        found: dict[str, list[Scores]] = {name: [] for name in SYSTEMS}
        for seed in range(seeds):
            for name in SYSTEMS:
                scores = _system(out / f"{data}-{name}-{seed}", name, data, steps, seed, images)
                found[name].append(dict(scores))
        rows[data] = [StudyRow(name, tuple(scores)) for name, scores in found.items()]
    return rows


def _system(
    folder: Path, name: str, data: str, steps: int, seed: int, images: int
) -> Mapping[str, float]:
    arguments = [shipped()[name].preset, "--data", data, "--init", name]
    arguments += ["--lr", str(LEARNING_RATE), "--seed", str(seed)]
    return scores_of_training(
        folder,
        arguments,
        steps,
        f"scores_{images}.json",
        lambda: measure(load_run(folder), data, images),
    )


def measure(model: nn.Module, data: str, images: int) -> Scores:
    """Compute the PQ of a model on the first images of ``val``."""
    result = evaluate(model, Shapes("val", images, crowded=data == "crowded")).panoptic
    assert result is not None
    return panoptic_scores(result)
