"""DETR: the numbers of a recorded run of the original, from the picture to the panoptic map."""

import copy

import numpy as np
import pytest
import torch
from helpers import small_detr as small
from helpers.paths import GOLDEN
from helpers.without_resizing import infer, network_batch

from labkit.checkpoints.detr import detr_key_map, load
from labkit.engine.predictor import Predictor


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "detr.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory, golden):
    """The model with weights from a file with the published names."""
    model = small.config().build(small.CATEGORIES).eval()
    published = detr_key_map(panoptic=True)
    state = {
        published.name(key): small.weight(published.name(key), value.shape)
        for key, value in model.state_dict().items()
    }
    state["detr.class_embed.bias"] = torch.from_numpy(golden["class_bias"])
    path = tmp_path_factory.mktemp("detr") / "weights.pth"
    torch.save({"model": state}, path)
    load(path, model)
    path.unlink()
    return model


def decoded(model, images):
    batch = network_batch(model, images)
    return model.decode(model.backbone(batch.tensor), batch)


@pytest.mark.parametrize("name", ["both", "one", "small"])
@torch.no_grad()
def test_answers(model, golden, name):
    """Logits, boxes and masks of every query; in a batch the smaller picture is padded."""
    cases = list(small.SIZES) if name == "both" else [name]
    output = decoded(model, [small.image(case) for case in cases])
    known = torch.cat([model.label_of >= 0, torch.tensor([True])])
    queries = torch.arange(small.QUERIES)
    masks = model.masks(output, [queries] * len(cases))
    made = {
        "logits": output.pred_logits[-1][..., known],
        "boxes": output.pred_boxes[-1],
        "masks": masks.unflatten(0, (len(cases), -1)),
    }
    for part, value in made.items():
        wanted = golden[f"{name}_{part}"]
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-4, atol=1e-4, err_msg=part)


def test_losses(model, golden):
    """Of the last layer, of the one before, and of the masks."""
    cases = list(small.SIZES)
    model.train()
    losses = model([small.image(c) for c in cases], [small.target(c) for c in cases])
    model.eval()
    wanted = {k.removeprefix("loss "): float(golden[k]) for k in golden.files if "loss " in k}
    assert losses.keys() == wanted.keys() >= {"loss_dice", "loss_mask", "loss_ce_0"}
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(wanted[name], rel=1e-4), name


@pytest.fixture
def double_model(model):
    """The model in double precision: how threads share the work changes no decision."""
    torch.set_default_dtype(torch.float64)
    yield copy.deepcopy(model).double()
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["one", "small"])
def test_panoptic_map(double_model, golden, name):
    """Every segment and every pixel; make_detr.py holds the case away from ties."""
    with torch.no_grad():
        (prediction,) = infer(double_model, [small.image(name)], [small.OUTPUTS[name]])
    segments = prediction.panoptic.segments
    ids = [small.CATEGORIES[s.label].id for s in segments]
    assert len(set(ids)) > 4
    assert ids == golden[f"{name}_categories"].tolist()
    # The original's segments begin at 0 and leave no pixel out.
    np.testing.assert_array_equal(prediction.panoptic.ids.numpy() - 1, golden[f"{name}_ids"])
    areas = [int((prediction.panoptic.ids == s.id).sum()) for s in segments]
    assert areas == golden[f"{name}_areas"].tolist()


def test_the_predictor_sees_the_same(model):
    """Folded norms and another memory layout change roundings only."""
    (prediction,) = infer(model, [small.image("small")], [small.OUTPUTS["small"]])
    folded = decoded(Predictor(model).model, [small.image("small")])
    torch.testing.assert_close(
        folded.pred_boxes, decoded(model, [small.image("small")]).pred_boxes, atol=1e-4, rtol=1e-3
    )
    assert prediction.semantic.shape == small.OUTPUTS["small"]
