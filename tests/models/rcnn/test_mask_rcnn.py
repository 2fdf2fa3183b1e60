"""Mask R-CNN: Detectron2's numbers from a recorded run, and what it does with odd input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import small_detectors as small
from helpers.paths import GOLDEN
from helpers.without_resizing import infer, network_batch

from labkit.checkpoints.detectron2 import to_detectron2
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.models import PRESETS, build
from labkit.structures import Categories, Category

TINY = ["mask_rcnn_tiny", "mask_rcnn_tiny_c4", "mask_rcnn_tiny_dc5"]
CATEGORIES = Categories(Category(i, f"c{i}", isthing=i < 3) for i in range(5))


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "detectron2.npz")


@pytest.fixture(scope="module", params=list(small.KINDS))
def kind_and_model(request):
    model = small.config(request.param).build(small.CATEGORIES)
    state = model.state_dict()
    published = to_detectron2({name: name for name in state})
    for name, ours in published.items():
        state[ours].copy_(small.weight(name, state[ours].shape))
    return request.param, model


def test_inference_is_detectron2s(kind_and_model, golden):
    kind, model = kind_and_model
    model.eval()
    with torch.no_grad():
        found = infer(model, [small.image(0)], [small.OUTPUT_SIZE])[0].detections
    assert len(found) == len(golden[f"{kind}_scores"])
    assert found.labels.tolist() == golden[f"{kind}_labels"].tolist()
    assert np.abs(found.scores.numpy() - golden[f"{kind}_scores"]).max() <= 1e-4
    assert np.abs(found.boxes.numpy() - golden[f"{kind}_boxes"]).max() <= 1e-4
    masks = np.unpackbits(golden[f"{kind}_masks"], axis=-1)[..., : small.OUTPUT_SIZE[1]]
    # A pixel whose probability is one half to the last bit may fall on either side.
    assert (found.masks.numpy() != masks.astype(bool)).mean() <= 1e-5
    with torch.no_grad():
        batch = network_batch(model, [small.image(0)])
        mask_logits = model.predict(model.backbone(batch.tensor), batch).mask_logits[0]
    expected = golden[f"{kind}_probabilities"]
    probabilities = mask_logits[: len(expected)].sigmoid().numpy()
    assert np.abs(probabilities - expected).max() <= 1e-4


@pytest.mark.parametrize("kind_and_model", ["panoptic"], indirect=True)
def test_panoptic_map_is_detectron2s(kind_and_model, golden):
    _, model = kind_and_model
    model.eval()
    with torch.no_grad():
        found = infer(model, [small.image(0)], [small.OUTPUT_SIZE])[0]
    ids = golden["panoptic_ids"]
    assert np.array_equal(found.panoptic.ids.numpy(), ids)
    segments = found.panoptic.segments
    assert [s.id for s in segments] == list(range(1, len(segments) + 1))
    assert [s.label for s in segments] == golden["panoptic_segments"].tolist()
    outputs = golden["panoptic_semantic"].astype(int)
    stuff = outputs > 0
    assert np.array_equal(found.semantic.numpy()[stuff], outputs[stuff] + small.CLASSES - 1)
    # Where the branch says "a thing", the class is that of the object there, or unknown.
    labels = np.array([255, *golden["panoptic_segments"]])
    assert np.array_equal(found.semantic.numpy()[~stuff], labels[ids][~stuff])


def test_training_losses_are_detectron2s(kind_and_model, golden):
    kind, model = kind_and_model
    model.train()
    torch.manual_seed(0)  # both draw the same anchors and proposals
    losses = model([small.image(1), small.image(2)], [small.target(1), small.target(2)])
    assert set(losses) == {k.removeprefix(f"{kind}_") for k in golden.files if f"{kind}_loss" in k}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(golden[f"{kind}_{name}"]), rel=1e-5), name


def test_predictor_folds_without_changing_results(kind_and_model):
    _, model = kind_and_model
    model.eval()
    preprocessing = replace(model.config.preprocessing, resize=None)
    model.config = replace(model.config, preprocessing=preprocessing)
    with torch.no_grad():
        expected = infer(model, [small.image(0)])[0].detections
    found = Predictor(model)(small.image(0)).detections
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.masks != expected.masks).float().mean() < 1e-3
    assert any(name.endswith("stem.conv1.norm.weight") for name in model.state_dict())


def _image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def _target(height, width, boxes, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return {"image_id": 7, "boxes": boxes, "labels": torch.tensor(labels).long(), "masks": masks}


@pytest.mark.parametrize("preset", TINY)
def test_contract(preset):
    torch.manual_seed(0)
    model = build(preset, CATEGORIES)
    images = [_image(64, 96), _image(50, 70)]
    targets = [_target(64, 96, [[8, 8, 30, 40], [40, 10, 60, 20]], [0, 2]), _target(50, 70, [], [])]
    losses = model(images, targets)
    names = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"]
    assert list(losses) == names
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for prediction, image in zip(model.eval()(images), images, strict=True):
        found = prediction.detections
        assert found.masks.shape == (len(found), *image.shape[1:])
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert found.labels.max() < 3  # three of the five categories are things


@pytest.mark.parametrize("preset", TINY)
def test_a_batch_without_objects(preset):
    model = build(preset, CATEGORIES)
    losses = model([_image(64, 64)], [_target(64, 64, [], [])])
    sum(losses.values()).backward()
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 31)])
def test_odd_sizes(preset, size):
    model = build(preset, CATEGORIES)
    prediction = model.eval()([_image(*size)])[0]
    assert prediction.detections.masks.shape[1:] == size
    target = _target(*size, [[0, 0, *reversed(size)]], [1])
    sum(model.train()([_image(*size)], [target]).values()).backward()


def test_an_images_result_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = build("mask_rcnn_tiny", CATEGORIES).eval()
    small_one, large = _image(64, 64), _image(96, 128)
    alone = model([small_one])[0].detections
    # Padding reaches the convolutions near the far edges, so compare where it cannot change what
    # exists: the same picture padded twice.
    together = model([small_one, small_one])[0].detections
    assert torch.allclose(alone.boxes, together.boxes, atol=1e-4)
    assert len(model([small_one, large])[1].detections) > 0


def test_without_masks_it_is_faster_rcnn():
    model = replace(PRESETS["mask_rcnn_tiny"], masks=False).build(CATEGORIES)
    target = _target(64, 64, [[8, 8, 30, 40]], [1])
    assert "loss_mask" not in model([_image(64, 64)], [target])
    assert model.eval()([_image(64, 64)])[0].detections.masks is None
    assert not any("mask" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[5.0, 5, 5, 9]])}, r"image 7: box 0 .* has no area"),
        ({"boxes": torch.tensor([[5.0, 5, float("nan"), 9]])}, "box 0 .* has no area"),
        ({"boxes": torch.zeros(1, 5)}, r"boxes must be \(N, 4\)"),
        ({"labels": torch.tensor([3])}, "label 3 of object 0 is not one of the 3 thing classes"),
        ({"labels": torch.tensor([-1])}, "label -1"),
        ({"masks": torch.zeros(0, 64, 64, dtype=torch.bool)}, "1 label but 0 masks"),
    ],
)
def test_bad_targets_are_named(change, message):
    model = build("mask_rcnn_tiny", CATEGORIES)
    target = _target(64, 64, [[8, 8, 30, 40]], [1]) | change
    with pytest.raises(LabkitError, match=message):
        model([_image(64, 64)], [target])


def test_bad_images_are_named():
    model = build("mask_rcnn_tiny", CATEGORIES).eval()
    for image in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(LabkitError, match=r"images\[0\] must be \(3, H, W\) uint8"):
            model([image])
    with pytest.raises(LabkitError, match="the list is empty"):
        model([])


@pytest.mark.parametrize(
    ("preset", "entries", "millions"),
    [
        ("mask_rcnn_r50", 307, 44.34),
        ("mask_rcnn_r101", 562, 63.28),
        ("mask_rcnn_r50_c4", 279, 35.91),
        ("mask_rcnn_r101_c4", 534, 54.85),
        ("mask_rcnn_r50_dc5", 291, 172.35),
        ("mask_rcnn_r101_dc5", 546, 191.29),
    ],
)
def test_sizes_of_the_published_models(preset, entries, millions):
    with torch.device("meta"):
        model = build(preset, Categories(Category(i, str(i), True) for i in range(80)))
    assert len(model.state_dict()) == entries
    total = sum(p.numel() for p in model.parameters()) / 1e6
    assert total == pytest.approx(millions, abs=0.005)
