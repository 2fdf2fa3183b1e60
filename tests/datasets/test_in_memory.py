import torch

from labkit.checkpoints.shipped import shipped
from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate


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


def test_measured_as_the_data_set_itself():
    data = Shapes("val", num=6)
    model = shipped()["mask_rcnn_tiny"].load()
    by_size = [evaluate(model, one).detection.segm for one in (data, InMemory(data))]
    assert by_size[0] == by_size[1]
    assert by_size[0].small >= 0  # by Shapes' own limits there are small objects
