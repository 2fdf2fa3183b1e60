"""One evaluation loop for every labkit model, in one process or shared by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit.engine.precision import autocast
from labkit.structures import Prediction, Target
from labkit.system.distributed import default_device, rank, world_size
from labkit.system.progress_bars import progress_bar


@torch.no_grad()
def predict(
    model: nn.Module, images: Sequence[Tensor], precision: str | None = None
) -> list[Prediction]:
    """The model's predictions, on the CPU; its training mode is put back afterwards.

    Args:
        model: any labkit model.
        images: tensors ``(3, H, W)`` uint8 RGB on any device.
        precision: of the layers, see :func:`labkit.engine.precision.autocast`.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with autocast(device, precision):
            predictions: list[Prediction] = model([image.to(device) for image in images])
    finally:
        model.train(was_training)
    return [prediction.to("cpu") for prediction in predictions]


def predict_dataset(
    model: nn.Module, dataset: Any, batch_size: int = 8, progress: bool = True
) -> Iterator[tuple[Prediction, Target]]:
    """Predictions and targets of a data set, one image at a time, so that memory stays flat.

    Under ``torchrun`` each process yields its own share (every N-th image); metrics are then summed
    with their ``all_reduce``.

    Args:
        model: any labkit model; moved to this process's device.
        dataset: map-style, items ``(image, target)``.
        batch_size: images per forward pass.
        progress: show a bar.
    """
    model.to(default_device())
    mine = range(rank(), len(dataset), world_size())
    bar = progress_bar(
        total=len(mine), unit="image", disable=not progress or rank() > 0, leave=False
    )
    with bar:
        for start in range(0, len(mine), batch_size):
            indices = mine[start : start + batch_size]
            images, targets = zip(*(dataset[i] for i in indices), strict=True)
            yield from zip(predict(model, images), targets, strict=True)
            bar.update(len(indices))
