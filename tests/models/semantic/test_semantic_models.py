"""FCN and DeepLab: sizes, strides, what dilation does, and the contract of every model."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models import PRESETS, build
from labkit.models.backbones.tiny_resnet import StandardConv2d, TinyResNet
from labkit.models.preprocess import (
    LABKIT_PREPROCESSING,
    Batch,
    Preprocessing,
    pad_semantic,
    preprocess,
)
from labkit.models.semantic.fcn import FCN
from labkit.structures import IGNORE, Categories, Category

SEMANTIC = sorted(name for name in PRESETS if name.startswith(("fcn", "deeplab")))
CATEGORIES = Categories(Category(i, f"c{i}", isthing=i < 2) for i in range(5))


def logits_of(model, batch):
    return model.predict(model.backbone(batch.tensor), batch)


def _images(*sizes):
    return [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in sizes]


@pytest.mark.parametrize("preset", SEMANTIC)
def test_contract_losses_in_training_maps_of_each_images_size_in_evaluation(preset):
    torch.manual_seed(0)
    model = build(preset, CATEGORIES)
    images = _images((64, 96), (50, 70))
    targets = [{"semantic": torch.randint(0, 5, i.shape[1:])} for i in images]
    losses = model(images, targets)
    assert set(losses) == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    predictions = model.eval()(images)
    assert [p.semantic.shape for p in predictions] == [(64, 96), (50, 70)]
    assert all(p.semantic.dtype == torch.int64 for p in predictions)


def test_maps_of_resized_images_have_the_images_sizes():
    torch.manual_seed(0)
    resized = replace(LABKIT_PREPROCESSING, resize="pillow", min_size=32, max_size=64)
    model = FCN(replace(PRESETS["fcn8_tiny"], preprocessing=resized), CATEGORIES).eval()
    predictions = model(_images((64, 96), (50, 70)))
    assert [p.semantic.shape for p in predictions] == [(64, 96), (50, 70)]


@pytest.mark.parametrize("preset", SEMANTIC)
def test_padding_and_ignored_pixels_do_not_count(preset):
    torch.manual_seed(0)
    model = build(preset, CATEGORIES)
    images = _images((64, 64))
    truth = torch.randint(0, 5, (64, 64))
    truth[:10] = IGNORE
    logits = logits_of(model, preprocess(images, LABKIT_PREPROCESSING))
    by_hand = F.cross_entropy(logits[0, :, 10:].flatten(1).T, truth[10:].flatten())
    loss = model(images, [{"semantic": truth}])["loss_sem_seg"]
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))],
)
def test_dilation_trades_stride_for_size_with_the_same_parameters(output_stride, strides):
    backbone = TinyResNet(output_stride=output_stride)
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert tuple(backbone.strides.values()) == strides
    assert [64 // f.shape[-1] for f in features.values()] == list(strides)
    shapes = [p.shape for p in backbone.parameters()]
    assert shapes == [p.shape for p in TinyResNet().parameters()]


def test_dilated_stages_compute_the_strided_ones_between_their_samples():
    """Sampling the dilated network's map at the old stride gives the strided network's map.

    The identity that makes dilation a drop-in replacement. GroupNorm averages over positions, so it
    holds for the convolutions and is checked with norms off.
    """
    torch.manual_seed(0)
    strided, dilated = TinyResNet(output_stride=32), TinyResNet(output_stride=8)
    for model in (strided, dilated):
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.GroupNorm):
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    coarse, fine = strided.double()(x)["res5"], dilated.double()(x)["res5"]
    torch.testing.assert_close(fine[..., ::4, ::4], coarse)


def test_standardised_dilated_convolution_by_hand():
    """y[i] = sum over k of x[i + r k] w[k] with r = 2, DeepLab's equation 1 in one dimension.

    The filter (-1, 0, 1) in the middle row of zeros has mean 0 and variance 2/9; times its nine
    weights that is 2, so each weight is divided by the root of 2.
    """
    conv = StandardConv2d(1, 1, 3, dilation=2)
    conv.weight.data = torch.zeros(1, 1, 3, 3)
    conv.weight.data[0, 0, 1] = torch.tensor([-1.0, 0.0, 1.0])
    x = torch.tensor([1.0, 2, 3, 4, 5]).reshape(1, 1, 1, 5)
    expected = torch.tensor([3.0, 4, 4, -2, -3]) / 2**0.5
    torch.testing.assert_close(conv(x).flatten(), expected, rtol=1e-4, atol=1e-4)
    shifted = StandardConv2d(1, 1, 3, dilation=2)
    shifted.weight.data = 5 * conv.weight.data + 7  # standardising undoes both
    torch.testing.assert_close(shifted(x).flatten(), expected, rtol=1e-4, atol=1e-4)


def test_fcn_adds_skips_coarse_to_fine():
    torch.manual_seed(0)
    model = build("fcn8_tiny", CATEGORIES).eval()
    x = torch.randn(1, 3, 64, 64)
    batch = Batch(x, [(64, 64)], [(64, 64)])
    coarse = F.interpolate(model.score(model.backbone(x)["res5"]), scale_factor=2, mode="bilinear")
    # The skips start at zero, so a fresh FCN-8s answers as FCN-32s would, only enlarged in steps.
    by_steps = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    by_steps = F.interpolate(by_steps, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(logits_of(model, batch), by_steps)
    model.skips["res3"].bias.data[1] = 7.0
    torch.testing.assert_close(logits_of(model, batch)[:, 1], by_steps[:, 1] + 7.0)


PARTS = {
    "dilation alone": {"rates": None, "skip_channels": None},
    "ASPP without decoder": {"skip_channels": None},
    "decoder without ASPP": {"rates": None},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_deeplab_without_aspp_or_decoder(parts):
    torch.manual_seed(0)
    model = replace(PRESETS["deeplab_tiny"], **parts).build(CATEGORIES)
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    aspp, decoder = "rates" not in parts, "skip_channels" not in parts
    expected = {"backbone", "score"}
    expected |= {"aspp"} if aspp else set()
    expected |= {"skip", "decoder"} if decoder else set()
    assert names == expected
    images = _images((64, 96))
    losses = model(images, [{"semantic": torch.randint(0, 5, (64, 96))}])
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.eval()(images)[0].semantic.shape == (64, 96)


def test_dilation_alone_is_a_score_layer_on_stride_8_and_bilinear_upsampling():
    torch.manual_seed(0)
    model = replace(PRESETS["deeplab_tiny"], **PARTS["dilation alone"]).build(CATEGORIES).eval()
    batch = preprocess(_images((64, 96)), LABKIT_PREPROCESSING)
    scores = model.score(model.backbone(batch.tensor)["res5"])
    assert scores.shape == (1, 5, 8, 12)
    by_hand = F.interpolate(scores, (64, 96), mode="bilinear")
    torch.testing.assert_close(logits_of(model, batch), by_hand)
    # A score layer and dilation: as many weights as FCN-32s has.
    fcn = build("fcn32_tiny", CATEGORIES)
    assert {n: p.shape for n, p in model.state_dict().items()} == {
        n: p.shape for n, p in fcn.state_dict().items()
    }


def test_preprocessing_normalises_then_pads():
    images = [
        torch.full((3, 3, 5), 255, dtype=torch.uint8),
        torch.zeros(3, 8, 2, dtype=torch.uint8),
    ]
    plain = Preprocessing(False, mean=(0, 0, 0), std=(255, 255, 255), size_divisor=4)
    batch = preprocess(images, plain).tensor
    assert batch.shape == (2, 3, 8, 8)
    assert batch[0, :, :3, :5].unique().tolist() == [1.0]
    assert math.isclose(batch.sum().item(), 3 * 15)
    maps = pad_semantic([torch.zeros(3, 5, dtype=torch.int64)], (8, 8))
    assert (maps == IGNORE).sum() == 64 - 15


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "the list is empty"),
        ([torch.zeros(3, 4, 4)], r"images\[0\] must be \(3, H, W\) uint8"),
        ([torch.zeros(4, 4, 3, dtype=torch.uint8)], r"got \(4, 4, 3\)"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(LabkitError, match=message):
        preprocess(images, LABKIT_PREPROCESSING)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(LabkitError, match="no preset 'unet'; there are: fcn32_tiny, fcn8_tiny"):
        build("unet", CATEGORIES)
