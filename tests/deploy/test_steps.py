"""The steps between the graphs: NumPy gives what the models' own post-processing gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.exports import SIZES, as_array, eager, model_of, sized_image
from helpers.small_models import STRUCTURES
from torchvision.ops import batched_nms

from labkit.checkpoints.torchvision import CONFIG as TORCHVISION
from labkit.deploy.boxes import nms
from labkit.deploy.exported import FAMILIES
from labkit.deploy.images import preprocess as preprocess_numpy
from labkit.deploy.queries import sigmoid
from labkit.engine.check_export import Differences, compare
from labkit.models.preprocess import preprocess
from labkit.models.presets import PRESETS


@pytest.fixture
def one_thread():
    """The order of sums is fixed: random logits have ties, which rounding would decide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", STRUCTURES)
def test_numpy_continues_as_the_model_does(preset):
    model = model_of(preset)
    run, family, config = eager(model)
    num_things = len(model.categories.things)
    options = vars(model.config.preprocessing)
    detections = segments = 0
    for index in range(len(SIZES)):
        image = sized_image(index, preset)
        with torch.no_grad():
            (prediction,) = model([image])
        batch, sizes = preprocess_numpy(as_array(image), options)
        result = FAMILIES[family](run, batch, sizes, num_things, config)
        found = compare(prediction, result, image.shape[1:])
        assert found.within_tolerance, found
        assert found.boxes < 2e-6
        assert found.scores < 1e-5
        assert max(found.masks, found.semantic, found.panoptic) <= 1
        detections += 0 if result.boxes is None else len(result.boxes)
        segments += len(result.segments)
    assert detections >= 3 or family == "semantic"
    assert segments >= 3 or result.panoptic is None


@pytest.mark.parametrize("preset", ["panoptic_fpn_tiny", "upsnet_tiny"])
def test_nothing_is_found(preset):
    """Nor where nothing is proposed: all objectness is that of no box."""
    model = model_of(preset)
    high = replace(model.config.roi_heads, score_thresh=1.0)
    model.config = replace(model.config, roi_heads=high)
    model.roi_heads.config = high
    run, family, config = eager(model)
    image = sized_image(0, preset)
    with torch.no_grad():
        (prediction,) = model([image])
    batch, sizes = preprocess_numpy(as_array(image), vars(model.config.preprocessing))
    num_things = len(model.categories.things)
    for changes in ({}, {"min_size": 1e6}):
        changed = config | {"rpn": config["rpn"] | changes}
        result = FAMILIES[family](run, batch, sizes, num_things, changed)
        assert result.boxes.shape == (0, 4)
        assert result.masks.shape == (0, *sizes.image)
        assert compare(prediction, result, sizes.image) == Differences(pixels=128 * 128)


# Pictures whose shorter side, longer side or neither decides, and a flat one.
PICTURES = ((60, 90), (300, 40), (64, 64), (33, 200), (3, 300))


@pytest.mark.parametrize(
    "config", [PRESETS[name] for name in ("mask_rcnn_r50", "detr_r50", "eomt_small_640")]
)
def test_preprocessing_by_pillow_is_the_models(config):
    same_preprocessing(config.preprocessing, exact=True)


@pytest.mark.parametrize("config", [PRESETS["upsnet_r50"], PRESETS["mask_rcnn_tiny"], TORCHVISION])
def test_preprocessing_in_numbers_is_the_models(config):
    same_preprocessing(config.preprocessing, exact=False)


def same_preprocessing(options, exact):
    generator = torch.Generator().manual_seed(0)
    small = {"min_size": 64, "max_size": 128} if options.resize else {}
    options = type(options)(**vars(options) | small)
    for size in PICTURES:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        expected = preprocess([image], options)
        batch, sizes = preprocess_numpy(as_array(image), vars(options))
        assert (sizes.image, sizes.input, sizes.padded) == (
            size,
            expected.input_sizes[0],
            expected.padded_size,
        )
        tolerance = 0 if exact else 1e-4 * max(1, 100 / min(options.std))
        np.testing.assert_allclose(batch, expected.tensor.numpy(), rtol=0, atol=tolerance)


def test_nms_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 30, (200, 2, 2), generator=generator).sort(dim=1).values
    boxes = corners.flatten(1).float()  # several without an area, at the same place too
    boxes[:20] = boxes[180:, [0, 1, 0, 1]]
    boxes[20:40] = boxes[:20]
    scores, groups = torch.rand(200, generator=generator), torch.arange(200) % 3
    with np.errstate(all="raise"):
        keep = nms(boxes.numpy(), scores.numpy(), groups.numpy(), 0.5)
    assert keep.tolist() == batched_nms(boxes, scores, groups, 0.5).tolist()
    assert len(keep) < 200


def test_sigmoid_of_any_logit_without_a_warning():
    with np.errstate(over="raise", invalid="raise"):
        found = sigmoid(np.array([-1e4, -2, 0, 2, 1e4], np.float32))
    np.testing.assert_allclose(found, [0, 0.11920292, 0.5, 0.88079708, 1], rtol=0, atol=1e-7)
