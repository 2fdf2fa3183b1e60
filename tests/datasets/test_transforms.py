"""Joint transforms: image, masks, boxes and maps move together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from labkit.datasets.augmentation import Augmentation
from labkit.datasets.shapes import Shapes
from labkit.datasets.targets import target_from_panoptic
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.errors import LabkitError
from labkit.structures import IGNORE, Categories, Category, Panoptic, Segment

CATEGORIES = Categories([Category(1, "cat", True), Category(2, "sky", False)])
IDS = torch.tensor([[1, 1, 3, 3], [3, 3, 3, 2], [0, 3, 3, 2]], dtype=torch.int32)
SEGMENTS = [Segment(1, 0), Segment(2, 0, iscrowd=True), Segment(3, 1)]
IMAGE = torch.arange(36, dtype=torch.uint8).reshape(3, 3, 4)


def small():
    return IMAGE.clone(), target_from_panoptic(Panoptic(IDS.clone(), list(SEGMENTS)), CATEGORIES, 5)


def same(one, other):
    assert one.keys() == other.keys()
    for key in ("boxes", "labels", "masks", "semantic"):
        assert torch.equal(one[key], other[key]), key
        assert one[key].dtype == other[key].dtype, key
        assert type(one[key]) is torch.Tensor, key
    assert torch.equal(one["panoptic"].ids, other["panoptic"].ids)
    assert one["panoptic"].segments == other["panoptic"].segments
    assert one["image_id"] == other["image_id"]


def test_a_flip_by_hand():
    image, target = JointTransform(v2.RandomHorizontalFlip(p=1))(*small())
    assert type(image) is torch.Tensor
    assert torch.equal(image, IMAGE.flip(2))
    assert target["boxes"].tolist() == [[2, 0, 4, 1]]
    assert target["panoptic"].ids.tolist() == [[3, 3, 1, 1], [2, 3, 3, 3], [2, 3, 3, 0]]
    assert target["semantic"].tolist() == [[1, 1, 0, 0], [0, 1, 1, 1], [0, 1, 1, IGNORE]]


def test_the_input_is_left_alone():
    image, target = small()
    JointTransform(v2.RandomHorizontalFlip(p=1), v2.RandomPhotometricDistort(p=1))(image, target)
    assert torch.equal(image, IMAGE)
    same(target, small()[1])


def test_no_transform_changes_nothing():
    image, target = JointTransform()(*small())
    assert torch.equal(image, IMAGE)
    same(target, small()[1])


def test_a_crop_drops_what_it_cuts_off():
    # The last two rows: object 1 is gone, the crowd stays and is no object.
    image, target = JointTransform(v2.Lambda(lambda x: x[..., 1:, :]))(*small())
    assert image.shape == (3, 2, 4)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 2, 4)
    assert [s.id for s in target["panoptic"].segments] == [2, 3]


def test_padding_is_void_and_ignored():
    _, target = JointTransform(v2.Pad([0, 2, 1, 0]))(*small())
    assert target["panoptic"].ids.shape == (5, 5)
    assert (target["panoptic"].ids[:2] == 0).all()
    assert (target["panoptic"].ids[:, 4] == 0).all()
    assert (target["semantic"][:2] == IGNORE).all()
    assert target["semantic"][4].tolist() == [IGNORE, 1, 1, 0, IGNORE]
    assert target["boxes"].tolist() == [[0, 2, 2, 3]]


def test_resize_by_the_short_side_with_a_limit():
    image, target = JointTransform(v2.Resize(6, max_size=7))(*small())
    # 3 × 4 doubled would be 6 × 8; the limit 7 makes it 5 × 7.
    assert image.shape == (3, 5, 7)
    assert target["masks"].shape[1:] == target["semantic"].shape == (5, 7)
    _, doubled = JointTransform(v2.Resize(6))(*small())
    assert doubled["boxes"].tolist() == [[0, 0, 4, 2]]
    assert torch.equal(doubled["panoptic"].ids, IDS.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_large_ids_survive_resizing():
    ids = torch.full((4, 4), 256**3 - 1, dtype=torch.int32)
    target = target_from_panoptic(Panoptic(ids, [Segment(256**3 - 1, 0)]), CATEGORIES, 0)
    _, resized = JointTransform(v2.Resize(9))(torch.zeros(3, 4, 4, dtype=torch.uint8), target)
    assert (resized["panoptic"].ids == 256**3 - 1).all()


def test_a_target_may_lack_the_maps():
    image, target = small()
    del target["semantic"], target["panoptic"]
    _, flipped = JointTransform(v2.RandomHorizontalFlip(p=1))(image, target)
    assert flipped.keys() == target.keys()
    assert flipped["boxes"].tolist() == [[2, 0, 4, 1]]
    empty = {**target, "masks": target["masks"][:0], "labels": target["labels"][:0]}
    image, flipped = JointTransform(v2.Pad(1))(image, empty)
    assert image.shape == (3, 5, 6)
    assert flipped["masks"].shape == (0, 5, 6)


AUGMENT = (
    v2.RandomHorizontalFlip(),
    v2.ScaleJitter((64, 64), scale_range=(0.4, 2.0), antialias=True),
    v2.RandomCrop((64, 64), pad_if_needed=True),
    v2.RandomPhotometricDistort(),
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_augmented_targets_agree_with_their_panoptic_map(seed, crowded):
    torch.manual_seed(seed)
    image, target = JointTransform(*AUGMENT)(*Shapes(size=64, crowded=crowded)[seed % 1000])
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    same(target, target_from_panoptic(target["panoptic"], Shapes.categories, target["image_id"]))


def test_augmentation_is_repeatable_and_random():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(JointTransform(*AUGMENT)(*Shapes(size=64)[0])[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("scales", [(0.1, 0.3), (1.0, 1.0), (2.0, 4.0)])
def test_the_augmentation_of_a_training(scales):
    """At every scale maps, masks and boxes agree; what is outside of the crop is gone."""
    augmentation = Augmentation(scales, crop=48, color_jitter=0.5)
    data = TransformedDataset(Shapes(size=64), augmentation.joint(v2.Resize(200)))
    fewer = 0
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = data[seed]
        assert image.shape == (3, 48, 48)
        assert target["boxes"].shape == (len(target["masks"]), 4)
        same(
            target, target_from_panoptic(target["panoptic"], Shapes.categories, target["image_id"])
        )
        void = (target["semantic"] == IGNORE).float().mean()
        assert (void > 0.8) if scales[1] < 0.5 else (void == 0)
        fewer += len(target["labels"]) < len(data.dataset[seed][1]["labels"])
        torch.manual_seed(seed)
        again, _ = data[seed]
        assert torch.equal(image, again)
    assert fewer > 0 if scales[0] > 1 else True


def test_the_augmentation_without_options_mirrors_and_resizes():
    torch.manual_seed(0)
    image, _ = Augmentation().joint(v2.Resize(16))(*Shapes(size=32)[0])
    torch.manual_seed(0)
    expected, _ = JointTransform(v2.RandomHorizontalFlip(), v2.Resize(16))(*Shapes(size=32)[0])
    assert torch.equal(image, expected)
    cropped, target = Augmentation(crop=20).joint(v2.Resize(32))(*Shapes(size=64)[0])
    assert cropped.shape == (3, 20, 20)
    assert target["semantic"].shape == (20, 20)
    # Colours change, places do not.
    image, target = Shapes(size=32)[0]
    changed, moved = JointTransform(
        *Augmentation(color_jitter=1.0).joint(None).transform.transforms[1:]
    )(image, target)
    assert not torch.equal(changed, image)
    same(moved, target)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scale_jitter": (2.0, 0.5)}, "scale jitter 2 to 0.5: two scales"),
        ({"scale_jitter": (0.0, 1.0)}, "scale jitter 0 to 1"),
        ({"scale_jitter": (float("nan"), 1.0)}, "scale jitter nan to 1"),
        ({"crop": 3}, r"crop 3: must be in 16\.\.4096 pixels"),
        ({"color_jitter": 1.5}, "colour jitter 1.5: must be above 0, at most 1"),
        ({"color_jitter": 0.0}, "colour jitter 0"),
    ],
)
def test_wrong_augmentations_are_refused(settings_, message):
    with pytest.raises(LabkitError, match=message):
        Augmentation(**settings_)


def test_a_transformed_data_set_is_a_data_set():
    dataset = TransformedDataset(
        Shapes(num=5, size=64), JointTransform(v2.RandomHorizontalFlip(p=1))
    )
    assert dataset.categories == Shapes.categories
    assert len(dataset) == 5
    image, target = dataset[2]
    assert target["image_id"] == 2
    assert torch.equal(image, Shapes(size=64)[2][0].flip(2))
