"""UPSNet: the numbers of a recorded run of the original, from the picture to the panoptic map."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_upsnet as small
from helpers.paths import GOLDEN

from labkit.checkpoints.upsnet import load, upsnet_key_map
from labkit.engine.predictor import Predictor


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "upsnet.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model with weights from a file with the published names."""
    model = small.config().build(small.CATEGORIES).eval()
    published = upsnet_key_map(small.STUFF)
    shapes = {
        published.name(key): published._shape(key, value)
        for key, value in model.state_dict().items()
    }
    path = tmp_path_factory.mktemp("upsnet") / "weights.pth"
    state = {f"module.{name}": small.weight(name, shape) for name, shape in shapes.items()}
    torch.save(state, path)
    load(path, model)
    path.unlink()
    return model


@pytest.fixture(scope="module", params=list(small.SIZES))
def case_and_prediction(request, model):
    layer = [f"roi_heads.cls_score.{value}" for value in ("weight", "bias")]
    case = request.param
    upsnet_key_map(small.STUFF).load(Path(case), small.classifier(case), model, layer)
    return case, Predictor(model)(small.image(case))


def test_objects(case_and_prediction, golden):
    case, prediction = case_and_prediction
    found, scores = prediction.detections, golden[f"{case}_scores"]
    if case == "nothing":  # the original puts a box without a class in the place of none
        assert golden["nothing_labels"].tolist() == [0]
        assert len(found) == 0
        return
    assert len(found) == len(scores) > 20
    # The original's boxes end with a pixel, labkit's with its far edge; and the original's may
    # reach out of the picture, whose size the enlarged one's is only rounded from.
    height, width = small.SIZES[case]
    last = np.array([width - 1, height - 1] * 2)
    theirs = np.minimum(golden[f"{case}_boxes"], last) + np.array([0, 0, 1, 1])
    # Class by class, as the original has them; boxes that are equally sure stand in any order.
    distance = np.abs(found.boxes.numpy()[:, None] - theirs).max(axis=2)
    distance[(found.labels + 1).numpy()[:, None] != golden[f"{case}_labels"]] = np.inf
    distance[np.abs(found.scores.numpy()[:, None] - scores) > 1e-5] = np.inf
    assert distance.min(axis=0).max() <= 2e-3
    assert sorted(distance.argmin(axis=0)) == list(range(len(scores)))


def test_maps(case_and_prediction, golden):
    """Pixels whose two best logits are equal to rounding may fall on either side."""
    case, prediction = case_and_prediction
    of_original = [*range(small.STUFF, small.STUFF + small.THINGS), *range(small.STUFF)]
    semantic = np.array(of_original)[prediction.semantic]
    assert (semantic != golden[f"{case}_semantic"]).mean() <= 2e-4

    classes = np.full(prediction.semantic.shape, 255)
    numbers = np.full(prediction.semantic.shape, -1)  # of the object; -1 for stuff and void
    for segment in prediction.panoptic.segments:
        region = prediction.panoptic.ids.numpy() == segment.id
        classes[region] = of_original[segment.label]
        if segment.score is not None:
            numbers[region] = segment.id
    theirs = golden[f"{case}_classes"]
    assert (classes != theirs).mean() <= 2e-4
    is_object = (theirs >= small.STUFF) & (theirs < 255)
    assert is_object.any() == (case != "nothing")
    # Numbers differ, since the original also counts objects without a pixel; regions do not.
    for number in np.unique(golden[f"{case}_numbers"][is_object]):
        region = is_object & (golden[f"{case}_numbers"] == number)
        values, counts = np.unique(numbers[region], return_counts=True)
        same = numbers == values[counts.argmax()]
        assert values[counts.argmax()] > 0 or region.sum() < 3
        assert (same != region).mean() <= 2e-4
