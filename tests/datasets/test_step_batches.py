"""Batches by step number."""

from itertools import chain, pairwise

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from labkit.datasets.shapes import Shapes
from labkit.datasets.step_batches import StepBatches, mixed_seed
from labkit.datasets.transforms import JointTransform, TransformedDataset

FLIPPED = TransformedDataset(Shapes(num=10, size=32), JointTransform(v2.RandomHorizontalFlip()))


def _batches(rank=0, world=1, seed=0, workers=0):
    steps = StepBatches(FLIPPED, 6, 4, seed, rank, world)
    return list(DataLoader(steps, batch_size=None, num_workers=workers))


def _ids(batches):
    return [[t["image_id"] for t in targets] for _, targets in batches]


def test_every_image_once_per_epoch_in_an_order_of_its_own():
    ids = list(chain.from_iterable(_ids(_batches())))
    assert sorted(ids[:10]) == sorted(ids[10:20]) == list(range(10))
    assert ids[:10] != ids[10:20]
    assert ids != list(chain.from_iterable(_ids(_batches(seed=1))))


def test_a_batch_depends_on_its_step_alone():
    steps = StepBatches(FLIPPED, 6, 4, 0, 0, 1)
    torch.manual_seed(99)
    late = steps[5]
    assert torch.initial_seed() == 99, "the caller's generator is left alone"
    for (image, _), (again, _) in zip(
        zip(*late, strict=True), zip(*_batches(workers=2)[5], strict=True), strict=True
    ):
        assert torch.equal(image, again)


def test_processes_share_the_very_batch_of_one_process():
    whole, shares = _batches(), [_batches(rank, 2) for rank in range(2)]
    for step, (images, _) in enumerate(whole):
        assert len(images) == 4
        for rank in range(2):
            for own, image in zip(shares[rank][step][0], images[rank::2], strict=True):
                assert torch.equal(own, image)


def test_augmentation_differs_from_epoch_to_epoch():
    seen: dict[int, set[int]] = {}
    for images, targets in _batches():
        for image, target in zip(images, targets, strict=True):
            seen.setdefault(target["image_id"], set()).add(int(image[0, :, :8].sum()))
    assert any(len(sums) > 1 for sums in seen.values())


def test_seeds_of_neighbours_differ_in_many_bits():
    seeds = [mixed_seed(0, n, stream=s) for n in range(200) for s in (1, 2, 3)]
    assert len(set(seeds)) == len(seeds)
    flips = [bin(a ^ b).count("1") for a, b in pairwise(seeds)]
    assert min(flips) > 8
