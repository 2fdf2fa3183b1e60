"""The built-in data: repeatable to the bit, and a consistent ground truth."""

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.datasets.shapes.dataset import SPLIT_LENGTH, Shapes
from labkit.errors import LabkitError

# sha256 of the image's and the map's bytes. They must be the same on every machine and for every
# version of NumPy; change them only when the pictures are meant to change.
KNOWN = {
    ("train", 0, False, 128): "4a86dde39f52ee4995fea35457a13f94b6fc6284d1bacf69f891ddaca757f7c3",
    ("val", 41, False, 128): "0567ca5384181a3dc816e1447ddf3c99e898154b5794b58574f28d0aaa2ea6ee",
    (
        "test",
        999999,
        False,
        200,
    ): "05488683c2eeaedd979710854d95e8cd73ebda85ff44e637784a5147b7fa8fc2",
    ("train", 5, True, 128): "202f788b4a9189c0b831ac5e7e98781db46d5c2cf8d8b764781f3f08ba447970",
    ("val", 3, True, 64): "cc5cf12368da676fa2116ca58b401cf51212e1bf0ceff04169e9cb7e3baa229a",
}

scenes = st.builds(
    lambda split, crowded, size, seed, index: Shapes(split, SPLIT_LENGTH, size, crowded, seed)[
        index
    ],
    st.sampled_from(["train", "val", "test"]),
    st.booleans(),
    st.sampled_from([32, 64, 97, 128]),
    st.integers(0, 2**64 - 1),
    st.integers(0, SPLIT_LENGTH - 1),
)


def digest(image, target):
    ids = target["panoptic"].ids.numpy().astype("<i4").tobytes()
    return hashlib.sha256(image.numpy().tobytes() + ids).hexdigest()


@pytest.mark.parametrize("known", KNOWN, ids=str)
def test_pictures_are_known_to_the_bit(known):
    split, index, crowded, size = known
    item = Shapes(split, SPLIT_LENGTH, size, crowded)[index]
    assert digest(*item) == KNOWN[known]


def test_another_process_draws_the_same(tmp_path):
    code = (
        "import hashlib; from labkit.datasets.shapes import Shapes; i, t = Shapes('val')[7];"
        "ids = t['panoptic'].ids.numpy().astype('<i4').tobytes();"
        "print(hashlib.sha256(i.numpy().tobytes() + ids).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == digest(*Shapes("val")[7])


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_ground_truth_is_consistent(scene):
    image, target = scene
    panoptic, masks, semantic = target["panoptic"], target["masks"], target["semantic"]
    assert image.dtype == torch.uint8
    assert image.shape[1:] == panoptic.ids.shape == semantic.shape == masks.shape[1:]
    assert image.shape[0] == 3

    # Every pixel has a segment, and every segment has pixels.
    assert set(panoptic.ids.unique().tolist()) == {s.id for s in panoptic.segments}
    assert torch.equal(semantic, panoptic.semantic())
    stuff = [s.label for s in panoptic.segments if s.label in Shapes.categories.stuff]
    assert len(stuff) == len(set(stuff))
    assert not any(s.iscrowd for s in panoptic.segments)

    # Objects: disjoint masks of their class, not too small, in tight boxes.
    assert (masks.sum(0) <= 1).all()
    assert torch.equal(masks.any(0), semantic < len(Shapes.categories.things))
    assert (masks.sum((1, 2)) >= 20).all()
    for box, label, mask in zip(target["boxes"], target["labels"], masks, strict=True):
        rows, columns = torch.where(mask)
        assert (semantic[mask] == label).all()
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_order_of_access_does_not_matter():
    one, other = Shapes(num=6, crowded=True), Shapes(num=6, crowded=True)
    forward = [digest(*one[i]) for i in range(6)]
    backward = [digest(*other[i]) for i in reversed(range(6))][::-1]
    assert forward == backward
    assert len(set(forward)) == 6
    assert digest(*one[-1]) == forward[-1]


def test_splits_seeds_and_variants_differ():
    items = [
        Shapes(split, seed=seed, crowded=crowded)[0]
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for crowded in (False, True)
    ]
    assert len({digest(*item) for item in items}) == 12
    assert {t["image_id"] for _, t in items} == {0, SPLIT_LENGTH, 2 * SPLIT_LENGTH}


def test_iteration_ends():
    assert [t["image_id"] for _, t in Shapes("val", num=3)] == [
        SPLIT_LENGTH,
        SPLIT_LENGTH + 1,
        SPLIT_LENGTH + 2,
    ]


def test_every_class_and_every_coco_size_occurs():
    dataset = Shapes(num=60)
    small, large = dataset.area_limits
    assert (round(small**0.5, 1), round(large**0.5, 1)) == (7.4, 22.2)
    targets = [target for _, target in dataset]
    areas = torch.cat([t["masks"].sum((1, 2)) for t in targets])
    for of_size in (areas < small, (areas >= small) & (areas < large), areas >= large):
        assert of_size.float().mean() > 0.05
    labels = torch.cat([t["semantic"].unique() for t in targets])
    assert set(labels.tolist()) == set(range(7))


def test_colour_does_not_tell_the_class():
    """Mean colours of the classes' objects differ by no more than chance lets them."""
    seen = {label: [] for label in Shapes.categories.things}
    for image, target in Shapes(num=150):
        for label, mask in zip(target["labels"].tolist(), target["masks"], strict=True):
            seen[label].append(image[:, mask].float().mean(1))
    means = torch.stack([torch.stack(colors).mean(0) for colors in seen.values()])
    # A colour's standard deviation is about 60; of a mean over some 200 objects about 4.
    assert (means.amax(0) - means.amin(0)).max() < 25


def test_objects_occlude_each_other_and_more_so_when_crowded():
    """Where boxes overlap, one object's pixels lie within the other's box."""

    def overlapping(dataset):
        pairs = 0
        for _, target in dataset:
            boxes = target["boxes"]
            top_left = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
            bottom_right = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
            pairs += ((bottom_right > top_left).all(2).sum() - len(boxes)).item() // 2
        return pairs

    plain, crowded = overlapping(Shapes(num=40)), overlapping(Shapes(num=40, crowded=True))
    assert plain > 10
    assert crowded > 5 * plain


def test_crowded_has_more_and_smaller_objects():
    plain = [t["masks"].sum((1, 2)).float() for _, t in Shapes(num=40)]
    crowded = [t["masks"].sum((1, 2)).float() for _, t in Shapes(num=40, crowded=True)]
    assert sum(map(len, crowded)) > 2 * sum(map(len, plain))
    assert torch.cat(crowded).mean() < 0.5 * torch.cat(plain).mean()


def test_larger_pictures_show_the_same_scene():
    small, large = Shapes(size=128)[3][1], Shapes(size=256)[3][1]
    shrunk = large["semantic"][::2, ::2]
    assert (shrunk == small["semantic"]).float().mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "minival"}, "split 'minival' is not one of train, val, test"),
        ({"num": -1}, "num -1 must be in"),
        ({"num": SPLIT_LENGTH + 1}, "num 1000001 must be in"),
        ({"size": 16}, "size 16 must be in 32..2048"),
        ({"seed": -3}, "seed -3 must be in"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(LabkitError, match=message):
        Shapes(**arguments)


def test_index_out_of_range():
    with pytest.raises(IndexError, match="index 5, but it has 5 images"):
        Shapes(num=5)[5]
