"""UPSNet: its losses, its predictions, and what both do with odd images."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch.nn import functional as F

from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.models import PRESETS, build
from labkit.models.backbones.resnet import ConvNorm, DeformConvNorm
from labkit.models.preprocess import preprocess
from labkit.models.rcnn.anchors import legacy_cell_anchors
from labkit.models.rcnn.roi_pooler import PoolerConfig, assign_level
from labkit.models.semantic.losses import cross_entropy, semantic_targets
from labkit.models.upsnet.losses import (
    crop_labels,
    panoptic_loss,
    panoptic_targets,
    sample_known,
)
from labkit.models.upsnet.postprocess import panoptic_maps
from labkit.ops.boxes import clip_boxes, decode_boxes
from labkit.structures import IGNORE, Categories, Category, Detections

LOSSES = [
    "loss_rpn_cls",
    "loss_rpn_loc",
    "loss_cls",
    "loss_box_reg",
    "loss_mask",
    "loss_sem_seg",
    "loss_sem_seg_roi",
    "loss_panoptic",
]
CATEGORIES = Categories(Category(i, f"c{i}", isthing=i < 3) for i in range(5))


def _image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def _target(height, width, boxes, labels, semantic=3):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    labelled = torch.full((height, width), semantic)
    for mask, label, (x1, y1, x2, y2) in zip(masks, labels, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
        labelled[mask] = label
    labels = torch.tensor(labels).long()
    return {
        "image_id": 7,
        "boxes": boxes,
        "labels": labels,
        "masks": masks,
        "semantic": labelled,
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("upsnet_tiny", CATEGORIES)


def test_contract(model):
    images = [_image(64, 96), _image(50, 70)]
    targets = [
        _target(64, 96, [[8, 8, 30, 40], [40, 10, 60, 20]], [0, 2]),
        _target(50, 70, [[1, 1, 9, 9]], [1], semantic=4),
    ]
    losses = model(images, targets)
    assert list(losses) == LOSSES
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.sem_seg_head.subnet[0].offset.weight.grad.abs().sum() > 0
    for prediction, image in zip(model.eval()(images), images, strict=True):
        assert prediction.semantic.shape == prediction.panoptic.ids.shape == image.shape[1:]
        assert prediction.detections.masks.shape == (len(prediction.detections), *image.shape[1:])
        assert prediction.semantic.max() < 5
        used = set(prediction.panoptic.ids.unique().tolist()) - {0}
        assert used == {segment.id for segment in prediction.panoptic.segments}


def test_predictions_where_gradients_are_on():
    torch.manual_seed(0)
    model = build("upsnet_tiny", CATEGORIES).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with_gradients = model([image])[0].panoptic
    with torch.no_grad():
        assert torch.equal(model([image])[0].panoptic.ids, with_gradients.ids)


@pytest.mark.parametrize(
    ("boxes", "labels", "semantic"),
    [([], [], 3), ([[0, 0, 64, 64]], [1], 3), ([], [], IGNORE), ([[5, 5, 20, 20]], [0], IGNORE)],
    ids=["only stuff", "only a thing", "all void", "void but for a thing"],
)
def test_odd_targets(model, boxes, labels, semantic):
    target = _target(64, 64, boxes, labels, semantic)
    losses = model([_image(64, 64)], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if semantic == IGNORE and not boxes:
        assert losses["loss_sem_seg"] == losses["loss_sem_seg_roi"] == losses["loss_panoptic"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 31)])
def test_odd_sizes(model, size):
    prediction = model.eval()([_image(*size)])[0]
    assert prediction.panoptic.ids.shape == size
    target = _target(*size, [[0, 0, *reversed(size)]], [1])
    sum(model.train()([_image(*size)], [target]).values()).backward()


def test_categories_without_stuff():
    model = build("upsnet_tiny", Categories([Category(1, "a", True), Category(2, "b", True)]))
    losses = model([_image(64, 64)], [_target(64, 64, [[0, 0, 64, 64]], [1], semantic=0)])
    assert all(loss.isfinite() for loss in losses.values())
    prediction = model.eval()([_image(64, 64)])[0]
    assert all(segment.label < 2 for segment in prediction.panoptic.segments)


def test_one_image_is_learnt():
    target = _target(64, 64, [[6, 6, 30, 34], [38, 30, 60, 60]], [0, 2])
    target["semantic"][:20, 30:] = 4
    torch.manual_seed(0)
    grey = 50 * target["semantic"] + torch.randint(0, 40, (64, 64))
    image = grey.to(torch.uint8).expand(3, -1, -1)
    model = build("upsnet_tiny", CATEGORIES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(20):
        losses = model([image], [target])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("loss_sem_seg", "loss_sem_seg_roi", "loss_panoptic"):
        assert history[-1][name] < 0.6 * history[0][name], name
    assert sum(history[-1].values()) < 0.5 * sum(history[0].values())


def test_an_images_result_does_not_depend_on_its_batch(model):
    model.eval()
    images = [_image(64, 96), _image(64, 96)]
    together = model(images)
    for image, prediction in zip(images, together, strict=True):
        alone = model([image])[0]
        assert torch.equal(alone.semantic, prediction.semantic)
        assert torch.equal(alone.panoptic.ids, prediction.panoptic.ids)
        assert torch.allclose(alone.detections.boxes, prediction.detections.boxes, atol=1e-4)


def test_the_candidates_of_the_panoptic_map(model):
    """Without overlap whatever the class, with equal scores at the cut; those above 0.6 enter."""
    model.config = replace(model.config, panoptic=replace(model.config.panoptic, max_detections=2))
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    boxes = boxes[:, None].expand(-1, 3, -1)
    scores = torch.tensor([[0.9, 0.05, 0], [0, 0.95, 0], [0.7, 0.2, 0], [0, 0, 0.7]])
    found = model.select_for_panoptic(scores, boxes)
    assert found.labels.tolist() == [1, 0, 2]
    assert found.scores.tolist() == pytest.approx([0.95, 0.7, 0.7])
    surely_nothing = model.select_for_panoptic(scores * 0.05, boxes)
    assert len(surely_nothing) == 0


def test_an_object_whose_mask_is_empty_goes_on_without_when_it_is_alone(model):
    """As the original: the first object stays, with what the semantic head says of its class."""
    scores = torch.full((5, 8, 8), -1.0)
    scores[3], scores[1, 2:6, 2:6] = 1.0, 8.0
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    found = Detections(box, torch.tensor([0.9]), torch.tensor([1]))
    config = replace(model.config.panoptic, min_stuff_area=1)
    empty = torch.full((1, 4, 4), -5.0)
    semantic, panoptic = panoptic_maps(
        scores, found, empty, 3, (32, 32), (32, 32), (1.0, 1.0), config
    )
    assert [segment.label for segment in panoptic.segments] == [1, 3]
    assert panoptic.ids[16, 16] == 1
    assert panoptic.ids[0, 0] == 2
    assert semantic[16, 16] == 1


def test_missing_and_wrong_semantic_labels_are_named(model):
    target = _target(64, 64, [], [])
    target["semantic"][3, 3] = 5
    with pytest.raises(LabkitError, match=r"image 7: semantic label 5 is neither one of the 5 cat"):
        model([_image(64, 64)], [target])
    del target["semantic"]
    with pytest.raises(LabkitError, match="image 7: has objects only"):
        model([_image(64, 64)], [target])


# Losses by hand


def test_labels_in_boxes():
    truth = torch.arange(16).reshape(1, 4, 4)
    # Middles of 2 × 2 bins of a box from (0, 0) to (4, 2): x = 1, 3; y = 0.5, 1.5.
    found = crop_labels(truth, [torch.tensor([[0.0, 0.0, 4.0, 2.0]])], 2)
    assert found.tolist() == [[[1, 3], [5, 7]]]


def test_panoptic_truth():
    """Things 0 and 1, stuff 2 and 3: stuff becomes 0 and 1, then the objects kept, then unknown."""
    semantic = torch.tensor([[2, 3, 0, 0, 1, 1, IGNORE]])
    masks = torch.zeros(2, 1, 7, dtype=torch.bool)
    masks[0, 0, 2], masks[1, 0, 4] = True, True  # a crowd of class 0 and of class 1 beside them
    both = panoptic_targets(semantic, masks, torch.tensor([0, 1]), 2, 4)
    assert both.tolist() == [[0, 1, 2, 4, 3, 4, IGNORE]]
    second = panoptic_targets(semantic, masks, torch.tensor([1]), 2, 4)
    assert second.tolist() == [[0, 1, 3, 3, 2, 3, IGNORE]]
    none = torch.zeros(0, dtype=torch.int64)
    assert panoptic_targets(semantic, masks, none, 2, 4).tolist() == [[0, 1, 3, 3, 3, 3, IGNORE]]


@pytest.mark.parametrize(("objects", "kept"), [(0, 0), (1, 1), (3, 2), (10, 7)])
def test_three_of_ten_objects_are_unknown(objects, kept):
    chosen = sample_known(objects, 0.3).tolist()
    assert len(chosen) == kept
    assert set(chosen) <= set(range(objects))
    assert chosen == sorted(set(chosen))


def test_the_panoptic_loss_by_hand():
    """One stuff class, one thing; two cells of four pixels: stuff, and an object held back or not.

    Logits: stuff 1 and 0, thing -1 and 2. The object's box is the second cell, its mask's logit 3.
    """
    scores = torch.tensor([[[-1.0, 2.0]], [[1.0, 0.0]]])
    semantic = torch.cat([torch.full((4, 4), 1), torch.zeros((4, 4), dtype=torch.int64)], dim=1)
    target = _target(4, 8, [[4, 0, 8, 4]], [0])
    target["masks"] = semantic[None] == 0
    kept, none = torch.tensor([0]), torch.tensor([], dtype=torch.int64)
    # In each cell: stuff, the object (semantic logit in its box, and its mask), unknown.
    first, second = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 2.0 + 3.0, 2.0 - 2.0])
    wanted = -(first.log_softmax(0)[0] + second.log_softmax(0)[1]) / 2
    loss = panoptic_loss(scores, semantic, target, kept, torch.full((1, 4, 4), 3.0), 1)
    torch.testing.assert_close(loss, wanted)
    # Held back: an object that is nowhere has logit 0, and unknown is the thing's own logit.
    second = torch.tensor([0.0, 0.0, 2.0])
    wanted = -(first.log_softmax(0)[0] + second.log_softmax(0)[2]) / 2
    loss = panoptic_loss(scores, semantic, target, none, torch.zeros(0, 4, 4), 1)
    torch.testing.assert_close(loss, wanted)


def test_the_mean_over_nothing_is_zero():
    logits = torch.randn(1, 3, 2, 2)
    truth = torch.tensor([[[0, 2], [IGNORE, 1]]])
    wanted = F.cross_entropy(logits, truth, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, truth), wanted)
    assert cross_entropy(logits, torch.full_like(truth, IGNORE)) == 0


def test_padding_has_no_label():
    target = _target(3, 3, [], [])
    assert semantic_targets([target], 5, (4, 5))[0, 3:].eq(IGNORE).all()


# Conventions


def test_legacy_anchors():
    """Stride 4 has, as pixels, (-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)."""
    anchors = legacy_cell_anchors(32, (0.5, 1.0, 2.0), 4)
    wanted = [[-22, -10, 26, 14], [-14, -14, 18, 18], [-10, -22, 14, 26]]
    assert anchors.tolist() == wanted


def test_boxes_from_pixel_to_pixel():
    """Decoding with widths of x2 - x1 + 1 and clipping to the last pixel, written out."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 60, (50, 2)).repeat(1, 2) + torch.tensor([0, 0, 20, 30])
    offsets = torch.randn(50, 4)
    width = (pixels[:, 2:] - pixels[:, :2] + 1).float()
    centre = pixels[:, :2] + 0.5 * width + offsets[:, :2] * width
    half = 0.5 * torch.exp(offsets[:, 2:]) * width
    wanted = torch.cat([centre - half, centre + half - 1], dim=1)
    limit = torch.tensor([79.0, 69.0, 79.0, 69.0])
    wanted = torch.minimum(wanted.clamp(min=0), limit)
    far_edge = torch.tensor([0, 0, 1, 1])
    boxes = decode_boxes(offsets, pixels + far_edge.float(), (1.0, 1.0, 1.0, 1.0))
    found = clip_boxes(boxes, (70, 80), plus_one=True) - far_edge
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (found[:, 2:] >= found[:, :2]).all()


def test_the_guard_decides_at_the_border_of_a_level():
    box = torch.tensor([[0.0, 0.0, 112.0, 112.0 - 1e-4]])
    near = PoolerConfig(("p2", "p3", "p4", "p5"))
    assert assign_level(box, near).item() == 0
    assert assign_level(box, replace(near, epsilon=1e-6)).item() == 1


def test_preprocessing_rounds_sizes_and_keeps_fractions():
    preprocessing = PRESETS["upsnet_r50"].preprocessing
    assert preprocessing.scale((480, 640)) == 800 / 480
    assert preprocessing.scale((400, 1000)) == 1333 / 1000
    torch.manual_seed(0)
    small = replace(preprocessing, min_size=40, max_size=70)
    batch = preprocess([_image(30, 50)], small)
    assert batch.input_sizes == [(40, 67)]  # 66.67
    assert batch.image_sizes == [(30, 50)]
    assert batch.tensor.shape == (1, 3, 64, 96)
    mean = torch.tensor(small.mean).flip(0)[:, None, None]
    assert ((batch.tensor[0, :, :40, :67] + mean) % 1 > 0.01).any()


@pytest.mark.parametrize(
    ("preset", "entries", "millions", "things", "stuff"),
    [
        ("upsnet_r50", 376 - 53, 46.130, 80, 53),
        ("upsnet_r101_dcn", 742 - 104, 66.408, 80, 53),
        ("upsnet_r50_cityscapes", 370 - 53, 44.528, 8, 11),
        ("upsnet_r101_cityscapes", 676 - 104, 63.520, 8, 11),
    ],
)
def test_sizes_of_the_published_models(preset, entries, millions, things, stuff):
    """The published files also count the batches of their norms, one number each."""
    categories = Categories(Category(i, str(i), i < things) for i in range(things + stuff))
    with torch.device("meta"):
        model = build(preset, categories)
    state = model.state_dict()
    assert len(state) == entries
    learnt = sum(v.numel() for k, v in state.items() if "running_" not in k)
    # The background's box and mask are not in labkit's model.
    background = 4 * (1024 + 1) + (256 + 1)
    assert (learnt + background) / 1e6 == pytest.approx(millions, abs=6e-4)


def test_deformable_backbone_starts_as_the_plain_one():
    torch.manual_seed(0)
    moved, plain = DeformConvNorm(8, 8, 1e-5, 2, 1), ConvNorm(8, 8, 3, 1e-5, stride=2)
    plain.load_state_dict({k: v for k, v in moved.state_dict().items() if "offset" not in k})
    x = torch.randn(2, 8, 9, 12)
    torch.testing.assert_close(moved(x), plain(x))
    torch.nn.init.normal_(moved.offset.weight, std=0.3)
    wanted = torchvision.ops.deform_conv2d(x, moved.offset(x), moved.weight, None, (2, 2), (1, 1))
    torch.testing.assert_close(moved(x), moved.norm(wanted), atol=1e-4, rtol=1e-4)


def test_predictor_gives_the_panoptic_map_at_the_pictures_size(model):
    resized = replace(model.config.preprocessing, resize="pillow", min_size=64, max_size=96)
    model.config = replace(model.config, preprocessing=resized)
    prediction = Predictor(model)(_image(50, 60))
    assert prediction.panoptic.ids.shape == prediction.semantic.shape == (50, 60)
