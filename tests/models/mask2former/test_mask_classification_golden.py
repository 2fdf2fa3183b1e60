"""MaskFormer, Mask2Former and EoMT: the numbers of a recorded run of the package transformers.

``test_beside_transformers.py`` compares larger networks, where transformers is installed.
"""

import pickle

import numpy as np
import pytest
import torch
from helpers import small_mask_models as small
from helpers.paths import GOLDEN

from labkit.checkpoints import eomt, mask2former
from labkit.models.mask2former.criterion import mask_classification_losses


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "mask_classification.npz")


def from_published_file(name, folder):
    """A model with weights from a file with the published names, read by the strict table."""
    model = small.built(name)
    table = {"mask2former": mask2former, "eomt": eomt}[name]
    published = {table.NAMES.name(key): v for key, v in small.weights(name, model).items()}
    path = folder / f"{name}.pkl"
    if name == "eomt":
        torch.save(published, path)
    else:
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in published.items()}}))
    table.load(path, model)
    return model


def check(golden, name, model, predictions):
    """Logits of all predictions, the last masks, and the losses with equal draws."""
    class_logits, mask_logits = predictions
    for part, value in (("class_logits", class_logits), ("mask_logits", mask_logits[-1])):
        np.testing.assert_allclose(
            value.numpy(), golden[f"{name} {part}"], rtol=1e-4, atol=1e-4, err_msg=part
        )
    torch.manual_seed(small.SEED)
    losses = mask_classification_losses(
        class_logits, mask_logits, small.segments(), model.config.loss
    )
    prefix = f"{name} loss loss_"
    wanted = {
        k.removeprefix(prefix).replace("cross_entropy", "ce"): float(golden[k])
        for k in golden.files
        if k.startswith(prefix)
    }
    assert {k.removeprefix("loss_"): float(v) for k, v in losses.items()} == pytest.approx(
        wanted, rel=1e-4
    )


@torch.no_grad()
def test_maskformer(golden):
    """In double precision, as in the recorded run: its attention is sharp, and rounding grows."""
    model = small.made("maskformer").double()
    features = model.backbone(small.images("maskformer").double())
    check(golden, "maskformer", model, model.decode(features, every_layer=True))


@torch.no_grad()
def test_mask2former(golden, tmp_path):
    model = from_published_file("mask2former", tmp_path)
    decoded = model.pixel_decoder(model.backbone(small.images("mask2former")))
    check(golden, "mask2former", model, model.decoder(*decoded, every_layer=True))


@torch.no_grad()
def test_eomt(golden, tmp_path):
    model = from_published_file("eomt", tmp_path)
    tokens = model.backbone(small.images("eomt"))
    check(golden, "eomt", model, model.decode(tokens, masked=True))
    class_logits, mask_logits = model.decode(tokens, masked=False)
    for part, value in (("class_logits", class_logits), ("mask_logits", mask_logits)):
        wanted = golden[f"eomt plain {part}"]
        np.testing.assert_allclose(value[-1].numpy(), wanted, rtol=1e-4, atol=1e-4, err_msg=part)
        assert np.abs(wanted - golden[f"eomt {part}"][-len(wanted) :]).max() > 0.01  # it matters
