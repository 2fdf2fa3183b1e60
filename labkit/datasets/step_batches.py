"""Batches by step number, reproducible after a resume and with any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labkit.structures import Target

TrainingBatch = tuple[list[Tensor], list[Target]]
"""Images and targets as two lists: images need not be of one size, so nothing is stacked."""


class StepBatches(Dataset[TrainingBatch]):
    """Data set of batches: item ``t`` is this process's share of the batch of step ``t``.

    The seed and the item's position in the run determine the order of the images and the randomness
    of each item. So a training sees the same data after a resume and with more processes.

    Args:
        dataset: map-style, items ``(image, target)``; augmentation draws from torch's generator.
        steps: number of steps of the run.
        batch_size: images per step over all processes.
        seed: seed of order and augmentation.
        rank, world: rank of this process and number of processes; it takes every world-th image.
    """

    def __init__(
        self, dataset: Dataset[Any], steps: int, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        self.dataset, self.steps, self.batch_size = dataset, steps, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self.size = len(dataset)  # type: ignore[arg-type]
        self._epoch = -1

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> TrainingBatch:
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        images, targets = [], []
        # The generator is given back as it was: with workers=0 this runs inside the training
        # process, whose own draws must not depend on how batches are prepared.
        with torch.random.fork_rng(devices=[]):
            for position in positions[self.rank :: self.world]:
                torch.manual_seed(mixed_seed(self.seed, position, stream=2))
                image, target = self.dataset[self._shuffled(position)]
                images.append(image)
                targets.append(target)
        return images, targets

    def _shuffled(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, stream=3))
            self._order = torch.randperm(self.size, generator=generator)
            self._epoch = epoch
        return int(self._order[place])


def mixed_seed(*numbers: int, stream: int) -> int:
    """Hash several numbers into one seed, so that neighbouring numbers give independent draws.

    Args:
        numbers: identify the draws, such as the run's seed and the step.
        stream: separates uses that have the same numbers.
    """
    value = stream
    for number in numbers:
        value = (value * 0x9E3779B97F4A7C15 + number + 1) % 2**63
        value ^= value >> 29
    return value
