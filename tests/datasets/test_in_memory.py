import torch

from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes


def test_items_are_made_once():
    made = []

    class Counted(Shapes):
        def __getitem__(self, index):
            made.append(index)
            return super().__getitem__(index)

    dataset = InMemory(Counted("val", num=3))
    assert made == [0, 1, 2]
    assert dataset[1] is dataset[1]
    assert torch.equal(dataset[2][0], Shapes("val", num=3)[2][0])
    assert made == [0, 1, 2]
    assert len(dataset) == 3
    assert dataset.categories == Shapes.categories
