"""Measuring a model while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labkit.engine.evaluate import Evaluation, evaluate
from labkit.errors import LabkitError


@dataclass(frozen=True)
class Validation:
    """What is measured during a training, and how often.

    The model's weights, mode and random numbers stay as they are: a copy is measured, and every
    step of a training seeds the generator anew.

    Attributes:
        dataset: as for :func:`labkit.engine.evaluate.evaluate`.
        every: steps from one measurement to the next; the last step is always followed by one.
        limit: only the first so many images.
    """

    dataset: Any
    every: int
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise LabkitError(f"Validation.every must be positive, got {self.every}")

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the model is measured after ``step`` of ``steps`` steps."""
        return step > 0 and (step % self.every == 0 or step == steps)

    def metric(self, model: nn.Module) -> str:
        """The name of what :meth:`measure` measures, found with a single image.

        Raises:
            LabkitError: as :func:`labkit.engine.evaluate.evaluate`: the data do not fit the model.
        """
        return main_metric(evaluate(model, self.dataset, 1, progress=False, device=_place(model)))[
            0
        ]

    def measure(self, model: nn.Module) -> float:
        """The main metric in 0..1; nan where it is not defined on the images."""
        return main_metric(evaluate(model, self.dataset, self.limit, device=_place(model)))[1]


def _place(model: nn.Module) -> torch.device:
    """Where the model is: a training on one GPU of several is measured on that one."""
    return next(model.parameters()).device


def main_metric(result: Evaluation) -> tuple[str, float]:
    """Name and value of the metric that a model is known by: PQ, mask AP, box AP or mIoU."""
    if result.panoptic is not None:
        return "PQ", result.panoptic.all.pq
    if result.detection is not None:
        if result.detection.segm is not None:
            return "mask AP", result.detection.segm.ap
        return "box AP", result.detection.bbox.ap
    assert result.semantic is not None  # evaluate refuses to measure nothing
    return "mIoU", result.semantic.miou
