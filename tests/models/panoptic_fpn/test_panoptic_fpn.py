"""Panoptic FPN: the contract of its presets, its losses by hand, and odd input.

Detectron2's numbers are in test_mask_rcnn.py (a recorded run) and test_beside_detectron2.py.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models import PRESETS, build
from labkit.models.panoptic_fpn.semantic_head import SemanticFPN, SemanticFPNConfig
from labkit.models.preprocess import preprocess
from labkit.structures import IGNORE, Categories, Category

TINY = ["panoptic_fpn_tiny", "panoptic_fpn_tiny_c4", "panoptic_fpn_tiny_dc5"]
CATEGORIES = Categories(Category(i, f"c{i}", isthing=i < 3) for i in range(5))
STUFF_ONLY = Categories([Category(1, "a", False), Category(2, "b", False)])
THINGS_ONLY = Categories([Category(1, "a", True), Category(2, "b", True)])


def _image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def _target(height, width, boxes=(), labels=(), semantic=3):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return {
        "image_id": 7,
        "boxes": boxes,
        "labels": torch.tensor(labels).long(),
        "masks": masks,
        "semantic": torch.full((height, width), semantic),
    }


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("merge_things", [False, True])
def test_contract(preset, merge_things):
    torch.manual_seed(0)
    config = PRESETS[preset]
    semantic_head = replace(config.semantic_head, merge_things=merge_things)
    model = replace(config, semantic_head=semantic_head, score_thresh=0.0, min_stuff_area=1).build(
        CATEGORIES
    )
    images = [_image(64, 96), _image(50, 70)]
    targets = [_target(64, 96, [[8, 8, 30, 40], [40, 10, 60, 20]], [0, 2]), _target(50, 70)]
    losses = model(images, targets)
    assert set(losses) == {
        *("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_sem_seg")
    }
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for prediction, image in zip(model.eval()(images), images, strict=True):
        size = image.shape[1:]
        assert prediction.detections.masks.shape[1:] == size
        assert prediction.semantic.shape == prediction.panoptic.ids.shape == size
        stuff = {s.id: s.label for s in prediction.panoptic.segments if s.label >= 3}
        for segment, label in stuff.items():
            assert (prediction.semantic[prediction.panoptic.ids == segment] == label).all()
        if merge_things:
            things = prediction.semantic < 3
            painted = prediction.panoptic.semantic()
            assert (prediction.semantic[things] == painted[things]).all()


def test_the_semantic_loss_is_the_mean_over_labelled_pixels():
    torch.manual_seed(0)
    model = build("panoptic_fpn_tiny", CATEGORIES)
    images = [_image(64, 64), _image(32, 64)]  # the second is padded
    targets = [_target(64, 64), _target(32, 64)]
    targets[0]["semantic"][:, 20:] = IGNORE
    targets[1]["semantic"][:16] = 4
    loss = model(images, targets)["loss_sem_seg"]
    batch = preprocess(images, model.config.preprocessing)
    logits = model.sem_seg_head(model.backbone(batch.tensor))
    assert logits.shape == (2, 5, 16, 16)
    full = F.interpolate(logits, size=batch.padded_size, mode="bilinear", align_corners=False)
    each = full.log_softmax(dim=1)
    picked = torch.cat(
        [
            each[0, 3, :, :20].flatten(),
            each[1, 4, :16].flatten(),
            each[1, 3, 16:32].flatten(),
        ]
    )
    assert loss.item() == pytest.approx(-picked.mean().item(), rel=1e-5)


def test_the_weights_of_the_joint_loss():
    torch.manual_seed(0)
    base = build("panoptic_fpn_tiny", CATEGORIES)
    config = replace(base.config, instance_loss_weight=0.25, semantic_loss_weight=3.0)
    other = config.build(CATEGORIES)
    other.load_state_dict(base.state_dict())
    images, targets = [_image(64, 64)], [_target(64, 64, [[8, 8, 30, 40]], [1])]
    torch.manual_seed(1)
    plain = base(images, targets)
    torch.manual_seed(1)
    weighted = other(images, targets)
    factors = {"loss_cls": 0.25, "loss_box_reg": 0.25, "loss_mask": 0.25, "loss_sem_seg": 3.0}
    for name, loss in plain.items():
        expected = loss.item() * factors.get(name, 1.0)
        assert weighted[name].item() == pytest.approx(expected, rel=1e-5), name


def test_the_towers_reach_one_quarter():
    """Repeats by level as in figure 3 of the paper: 1/4 none, then one doubling a level."""
    config = SemanticFPNConfig(("p2", "p3", "p4", "p5"), channels=8)
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    branch = SemanticFPN(16, strides, 6, config)
    convolutions = {
        n: sum("norm.weight" in k for k in branch.state_dict() if k[:2] == n) for n in strides
    }
    assert convolutions == {"p2": 1, "p3": 1, "p4": 2, "p5": 3}
    features = {name: torch.rand(2, 16, 64 // s, 96 // s) for name, s in strides.items()}
    assert branch(features).shape == (2, 6, 16, 24)


def test_nothing_labelled():
    model = build("panoptic_fpn_tiny", CATEGORIES)
    losses = model([_image(64, 64)], [_target(64, 64, semantic=IGNORE)])
    assert losses["loss_sem_seg"] == 0
    total = sum(losses.values())
    assert math.isfinite(total.item())
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("merge_things", [False, True])
def test_only_things(merge_things):
    tiny = PRESETS["panoptic_fpn_tiny"]
    semantic_head = replace(tiny.semantic_head, merge_things=merge_things)
    model = replace(tiny, semantic_head=semantic_head).build(THINGS_ONLY)
    sum(model([_image(64, 64)], [_target(64, 64, semantic=1)]).values()).backward()
    prediction = model.eval()([_image(64, 64)])[0]
    assert all(s.label in range(2) for s in prediction.panoptic.segments)


def test_without_things_there_is_nothing_to_detect():
    with pytest.raises(LabkitError, match="none of them is a thing"):
        build("panoptic_fpn_tiny", STUFF_ONLY)


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 31)])
def test_odd_sizes(preset, size):
    model = build(preset, CATEGORIES)
    assert model.eval()([_image(*size)])[0].panoptic.ids.shape == size
    target = _target(*size, [[0, 0, *reversed(size)]], [1])
    sum(model.train()([_image(*size)], [target]).values()).backward()


def test_bad_targets_are_named():
    model = build("panoptic_fpn_tiny", CATEGORIES)
    target = _target(64, 64)
    target["semantic"][3, 3] = 5
    with pytest.raises(LabkitError, match="image 7: semantic label 5 is neither one of the 5"):
        model([_image(64, 64)], [target])
    del target["semantic"]
    with pytest.raises(LabkitError, match="image 7: has objects only"):
        model([_image(64, 64)], [target])


@pytest.mark.parametrize(
    ("preset", "entries", "millions"),
    [("panoptic_fpn_r50", 330, 45.97), ("panoptic_fpn_r101", 585, 64.91)],
)
def test_sizes_of_the_published_models(preset, entries, millions):
    categories = Categories(Category(i, str(i), i < 80) for i in range(133))
    with torch.device("meta"):
        model = build(preset, categories)
    assert len(model.state_dict()) == entries
    total = sum(p.numel() for p in model.parameters()) / 1e6
    assert total == pytest.approx(millions, abs=0.005)
