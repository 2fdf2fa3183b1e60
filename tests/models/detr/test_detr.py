"""DETR's parts by hand-computed numbers, and what the tiny presets do with odd input."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from labkit.checkpoints.run_folder import start_from
from labkit.datasets.coco.categories import coco_panoptic, coco_things
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models.detr import criterion
from labkit.models.detr.criterion import (
    LossConfig,
    SetTargets,
    dice_loss,
    focal_loss,
    hungarian_match,
    set_losses,
    set_targets,
)
from labkit.models.detr.postprocess import Queries, boxes_map, fill_boxes, panoptic_map
from labkit.models.detr.transformer import sine_positions
from labkit.models.presets import PRESETS, build
from labkit.structures import IGNORE, Categories, Category, Detections, Panoptic, Segment

CATEGORIES = Categories(Category(i + 1, f"c{i}", isthing=i < 2) for i in range(4))


def test_positions_of_a_row_of_two_cells_and_a_padded_one():
    """Cells end at 1/2 and 1 of the row; y comes first, sine before cosine."""
    padding = torch.tensor([[[False, False, True]]])
    found = sine_positions(padding, channels=4)[0, :, 0]  # (4, 3)
    y, half, whole = 2 * math.pi, math.pi, 2 * math.pi
    wanted = torch.tensor(
        [
            [math.sin(y), math.cos(y), math.sin(half), math.cos(half)],
            [math.sin(y), math.cos(y), math.sin(whole), math.cos(whole)],
        ]
    ).T
    torch.testing.assert_close(found[:, :2], wanted, atol=1e-4, rtol=0)


def test_the_second_pair_of_channels_has_the_longer_wave():
    at_end = sine_positions(torch.zeros(1, 1, 1, dtype=torch.bool), channels=8)[0, :, 0, 0]
    angle = 2 * math.pi / 10_000**0.5
    torch.testing.assert_close(
        at_end[2:4], torch.tensor([math.sin(angle), math.cos(angle)]), atol=1e-5, rtol=0
    )


def _objects(outputs, boxes):
    return SetTargets(
        torch.tensor(outputs), torch.tensor(boxes), torch.zeros(len(outputs), 4, 4) > 0
    )


def test_the_assignment_is_the_cheapest_of_all():
    """Alone the first object would take query 0; together they are cheaper crosswise."""
    boxes = torch.tensor([[0.50, 0.5, 0.2, 0.2], [0.60, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])
    objects = _objects([0, 0], [[0.52, 0.5, 0.2, 0.2], [0.46, 0.5, 0.2, 0.2]])
    queries, which = hungarian_match(torch.zeros(3, 3), boxes, objects, LossConfig())
    assert dict(zip(which.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}
    # Where the class speaks clearly enough, it decides.
    logits = torch.tensor([[0.0, 9, 0], [0, 9, 0], [9, 0, 0]])
    queries, _ = hungarian_match(
        logits, boxes, _objects([0], [[0.52, 0.5, 0.2, 0.2]]), LossConfig(class_cost=99)
    )
    assert queries.tolist() == [2]


def test_predictions_that_are_no_numbers_are_refused_with_the_image():
    objects = replace(_objects([0], [[0.5, 0.5, 0.2, 0.2]]), image_id=139)
    with pytest.raises(LabkitError, match="image 139: the predictions are not finite"):
        hungarian_match(torch.full((2, 3), torch.nan), torch.rand(2, 4), objects, LossConfig())


def test_more_objects_than_queries_are_told_of_once(monkeypatch):
    monkeypatch.setattr(criterion, "_warned", set())
    box = [[0.5, 0.5, 0.2, 0.2]]
    many = [_objects([0] * n, box * n) for n in (2, 3, 4)]
    boxes = torch.tensor(box * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hungarian_match(torch.zeros(2, 3), boxes, many[0], LossConfig())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for objects in many:
            hungarian_match(torch.zeros(2, 3), boxes, objects, LossConfig())
    assert ["3 segments, the model 2 queries" in str(each.message) for each in told] == [True]


def test_losses_by_hand():
    """Two queries, one object of output 0; equal logits, so that each class has one third."""
    logits, boxes = torch.zeros(1, 2, 3), torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0, 0, 1, 1.0]]])
    objects = [_objects([0], [[0.5, 0.5, 0.2, 0.4]])]
    found = set_losses(
        logits, boxes, objects, [(torch.tensor([0]), torch.tensor([0]))], LossConfig()
    )
    assert float(found["loss_ce"]) == pytest.approx(math.log(3))
    assert float(found["loss_bbox"]) == pytest.approx(5 * 0.2)
    assert float(found["loss_giou"]) == pytest.approx(2 * 0.5)  # half of the larger box
    # "No object" counts a tenth: one sure and right, one sure and wrong about nothing.
    logits = torch.tensor([[[50.0, 0, 0], [0, 50.0, 0]]])
    found = set_losses(
        logits, boxes, objects, [(torch.tensor([0]), torch.tensor([0]))], LossConfig()
    )
    assert float(found["loss_ce"]) == pytest.approx(0.1 * 50 / 1.1)


def test_without_objects_the_losses_are_finite():
    nothing = SetTargets(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 4, 4) > 0
    )
    pair = hungarian_match(torch.zeros(2, 3), torch.rand(2, 4), nothing, LossConfig())
    assert [len(side) for side in pair] == [0, 0]
    found = set_losses(torch.zeros(1, 2, 3), torch.rand(1, 2, 4), [nothing], [pair], LossConfig())
    assert float(found["loss_bbox"]) == float(found["loss_giou"]) == 0
    assert found["loss_ce"].isfinite()


def test_mask_losses():
    logits, truth = torch.randn(3, 50), (torch.rand(3, 50) > 0.5).float()
    torch.testing.assert_close(focal_loss(logits, truth), sigmoid_focal_loss(logits, truth))
    # Probabilities 1 and 0 against a truth of 1, 1: twice one overlap, of one and two.
    sure = dice_loss(torch.tensor([[100.0, -100.0]]), torch.ones(1, 2))
    assert float(sure) == pytest.approx(1 - (2 * 1 + 1) / (1 + 2 + 1))


def test_objects_of_a_target():
    ids = torch.tensor([[1, 1, 3, 3], [1, 1, 3, 9]], dtype=torch.int32)
    segments = [Segment(1, 0), Segment(3, 2), Segment(9, 1, iscrowd=True)]
    target = {"image_id": 5, "panoptic": Panoptic(ids, segments)}
    label_of = torch.tensor([-1, 0, 1, 2, 3])  # outputs are ids, and 0 is none
    found = set_targets(target, label_of, panoptic=True)
    assert found.classes.tolist() == [1, 3]
    torch.testing.assert_close(
        found.boxes, torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
    )
    assert found.masks.sum(dim=(1, 2)).tolist() == [4, 3]
    with pytest.raises(LabkitError, match="image 5: this model finds stuff too"):
        set_targets({"image_id": 5}, label_of, panoptic=True)


def _map(rows, labels, smallest=0, size=None):
    """The map of masks that win where ``rows`` has their number; logits 1, second best 0."""
    winners = torch.tensor(rows)
    masks = F.one_hot(winners, len(labels)).permute(2, 0, 1).float()
    scores = torch.linspace(0.9, 0.95, len(labels))
    return panoptic_map(
        masks, torch.tensor(labels), scores, 2, size or tuple(winners.shape), smallest
    )


def test_regions_of_a_stuff_class_are_joined_and_things_are_not():
    found = _map([[0, 0, 1, 1], [2, 2, 3, 3]], [0, 0, 3, 3])
    # The second stuff mask was joined, so it had no pixels, was dropped, and the pixels were
    # decided again: what it alone claimed goes to the first of the others, all of them at 0.
    assert found.ids.tolist() == [[1, 1, 2, 2], [3, 3, 1, 1]]
    assert [(s.label, s.score is None) for s in found.segments] == [
        (0, False),
        (0, False),
        (3, True),
    ]


def test_small_segments_are_dropped_until_none_is_left():
    found = _map([[0, 0, 0, 0], [0, 1, 2, 2]], [0, 1, 2], smallest=1)
    assert [s.label for s in found.segments] == [0, 2]
    assert found.ids.tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
    assert _map([[0, 1]], [0, 1], smallest=4).segments == []


def test_no_query_no_segment():
    found = panoptic_map(torch.zeros(0, 4, 4), torch.zeros(0).long(), torch.zeros(0), 2, (3, 5))
    assert found.segments == []
    assert found.ids.tolist() == [[0] * 5] * 3


@pytest.mark.parametrize("size", [(7, 9), (20, 31), (64, 3)])
def test_the_map_is_resized_as_pillow_does(size):
    rows = torch.randint(0, 3, (16, 24), generator=torch.Generator().manual_seed(1))
    found = _map(rows.tolist(), [0, 0, 1], size=size)
    pillow = Image.fromarray(rows.numpy().astype(np.uint8)).resize(size[::-1], Image.NEAREST)
    assert np.array_equal(found.ids.numpy() - 1, np.array(pillow))


def test_a_map_of_boxes():
    """The large stuff below the small one, things above both."""
    queries = Queries(
        torch.arange(3),
        torch.tensor([2, 3, 0]),
        torch.tensor([0.9, 0.9, 0.9]),
        torch.tensor([[0, 0, 1, 1], [0, 0.5, 1, 1], [0.25, 0.25, 0.75, 0.75]]),
    )
    areas = fill_boxes(queries.boxes, (4, 4))
    found, stuff = (
        queries.detections(which, (4, 4), areas)
        for which in (
            torch.tensor([False, False, True]),
            torch.tensor([True, True, False]),
        )
    )
    assert isinstance(found, Detections)
    semantic = boxes_map(found, stuff, CATEGORIES).semantic()
    assert semantic.tolist() == [[2, 2, 2, 2], [2, 0, 0, 2], [3, 0, 0, 3], [3, 3, 3, 3]]
    nothing = queries.detections(torch.zeros(3) > 0, (4, 4), areas)
    assert boxes_map(nothing, nothing, CATEGORIES).semantic().eq(IGNORE).all()


@pytest.fixture(scope="module")
def images():
    data = Shapes("train", 4)
    return [data[i] for i in range(4)]


@pytest.mark.parametrize("preset", ["detr_tiny", "detr_panoptic_tiny"])
def test_contract(preset, images):
    torch.manual_seed(0)
    model = build(preset, Shapes.categories)
    pictures, targets = map(list, zip(*images, strict=True))
    losses = model(pictures, targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert ("loss_dice" in losses) == (preset == "detr_panoptic_tiny")
    with torch.no_grad():
        for (height, width), prediction in zip(
            [(128, 128), (40, 77)],
            model.eval()([pictures[0], pictures[1][:, :40, :77]]),
            strict=True,
        ):
            assert prediction.panoptic.ids.shape == prediction.semantic.shape == (height, width)
            boxes = prediction.detections.boxes
            assert boxes.numel() == 0 or boxes[:, 2].max() <= width
    with pytest.raises(LabkitError, match="uint8"):
        model([pictures[0].float()])


def test_the_second_stage_trains_the_mask_head_alone(images):
    torch.manual_seed(0)
    first = build("detr_tiny", Shapes.categories)
    config = PRESETS["detr_panoptic_tiny"]
    second = replace(config, frozen=True).build(Shapes.categories)
    fresh = {name.split(".")[0] for name in start_from(second, first)}
    assert fresh == {"bbox_attention", "mask_head"}
    pictures, targets = map(list, zip(*images[:2], strict=True))
    sum(second(pictures, targets).values()).backward()
    trained = {name.split(".")[0] for name, p in second.named_parameters() if p.grad is not None}
    assert trained == fresh
    both = config.build(Shapes.categories)
    assert {"loss_ce", "loss_ce_0", "loss_mask"} <= both(pictures, targets).keys()


def test_start_from_a_part():
    detector = build("mask_rcnn_tiny", Shapes.categories)
    model = build("detr_tiny", Shapes.categories)
    fresh = start_from(model, detector, "backbone")
    assert not [name for name in fresh if name.startswith("backbone.")]
    same = model.backbone.state_dict()
    assert all(same[name].equal(v) for name, v in detector.backbone.state_dict().items())
    with pytest.raises(LabkitError, match=r"no part 'backbon'; they have backbone, "):
        start_from(model, detector, "backbon")


def test_one_image_is_learnt(images):
    torch.manual_seed(0)
    model = build("detr_tiny", Shapes.categories)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    picture, target = images[0]
    totals = []
    for _ in range(40):
        total = sum(model([picture], [target]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0] / 2


@pytest.mark.parametrize(
    ("preset", "millions", "outputs"),
    [("detr_r50", 41.5, 91), ("detr_panoptic_r50", 42.9, 250), ("detr_panoptic_r101", 61.9, 250)],
)
def test_sizes_of_the_published_models(preset, millions, outputs):
    """Parameters in millions (41 and 60 in the paper's table 1, without masks), and outputs."""
    panoptic = "panoptic" in preset
    model = build(preset, coco_panoptic() if panoptic else coco_things())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.15)
    assert model.class_embed.out_features == outputs + 1


def test_a_picture_in_which_no_query_names_anything():
    torch.manual_seed(0)
    model = build("detr_panoptic_tiny", CATEGORIES).eval()
    with torch.no_grad():
        model.class_embed.bias[-1] = 100  # ∅, whatever is seen
        [found] = model([torch.zeros(3, 64, 48, dtype=torch.uint8)])
    assert tuple(found.detections.masks.shape) == (0, 64, 48)
    assert found.panoptic.segments == []
    assert (found.panoptic.ids == 0).all()
