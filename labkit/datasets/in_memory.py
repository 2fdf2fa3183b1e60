"""A data set whose images and targets are made once and kept."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.targets import SegmentationDataset
from labkit.structures import Target
from labkit.system.progress_bars import progress_bar


class InMemory(Dataset[tuple[Tensor, Target]]):
    """All items of a data set, in memory.

    Making an image of Shapes takes a third of a small network's training step, so a lesson that
    trains for minutes makes each of its images once. For random flips see
    :class:`labkit.datasets.transforms.TransformedDataset`.

    Args:
        dataset: read from the first item to the last, with a progress bar.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset, self.categories = dataset, dataset.categories
        self.items = [dataset[i] for i in progress_bar(range(len(dataset)), unit="image")]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.items[index]
