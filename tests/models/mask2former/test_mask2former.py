"""Mask2Former's parts by hand-computed numbers, and what the small models do with odd input."""

from dataclasses import replace

import pytest
import torch

from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models.backbones.vit import ViTConfig
from labkit.models.mask2former.deformable_attention import DeformableAttention
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.mask2former.masked_decoder import MaskedDecoder, MaskedDecoderConfig
from labkit.models.mask2former.pixel_decoder import cell_centres
from labkit.models.preprocess import EOMT_PREPROCESSING, preprocess
from labkit.models.presets import PRESETS, build
from labkit.structures import Categories, Category

DATA = Shapes("train", num=4, size=64)
IMAGES = [DATA[i][0] for i in range(2)]
TARGETS = [DATA[i][1] for i in range(2)]


# Deformable attention


def test_a_compiled_layer_attends_the_same(monkeypatch):
    torch.manual_seed(0)
    layer, sizes = (
        DeformableAttention(12, num_heads=3, num_levels=2, num_points=2),
        [(2, 3), (4, 1)],
    )
    inputs = torch.randn(2, 10, 12), torch.rand(10, 2), torch.randn(2, 10, 12), sizes
    expected = layer(*inputs)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    monkeypatch.setattr(
        "labkit.models.mask2former.deformable_attention.ms_deform_attn", None
    )  # an autograd function, which ONNX has not
    torch.testing.assert_close(layer(*inputs), expected)


def test_a_fresh_layer_looks_in_eight_directions():
    layer = DeformableAttention(d_model=16, num_heads=8, num_levels=1, num_points=2)
    offsets = layer.sampling_offsets.bias.view(8, 2, 2)
    assert offsets[0].tolist() == [[1, 0], [2, 0]]
    torch.testing.assert_close(offsets[1], torch.tensor([[1.0, 1], [2, 2]]))
    assert offsets.abs().amax(dim=-1).tolist() == [[1, 2]] * 8


def test_centres_of_cells():
    assert cell_centres((1, 2), torch.zeros(1)).tolist() == [[0.25, 0.5], [0.75, 0.5]]


# Masked attention


def decoder(**changes):
    config = MaskedDecoderConfig(num_queries=2, layers=1, num_heads=2, dim_feedforward=8)
    torch.manual_seed(0)
    return MaskedDecoder(replace(config, **changes), d_model=4, num_levels=1, num_classes=3)


def test_a_query_looks_inside_its_mask_and_with_an_empty_one_everywhere():
    model = decoder()
    x = torch.randn(1, 2, 4)
    vectors = model.mask_embed(model.norm(x))[0]  # (2, 4)
    # The first query's mask is the first cell; the second's is empty.
    features = torch.linalg.lstsq(vectors, torch.tensor([[5.0, -5], [-5, -5]])).solution
    mask = model.attention_mask(x, features.view(1, 4, 1, 2))
    assert mask.shape == (2, 2, 2)  # for both heads
    assert mask[0].tolist() == mask[1].tolist() == [[False, True], [False, False]]


def test_what_is_forbidden_has_no_effect():
    """Cells outside of all masks may change; the queries that look elsewhere do not see it."""
    model = decoder().eval()
    vectors = model.mask_embed(model.norm(model.query_feat.weight))  # (2, 4)
    wanted = torch.tensor([[5.0, -5, -5, -5], [-5, 5, -5, -5]])
    coarse = torch.linalg.lstsq(vectors, wanted).solution.detach().view(1, 4, 2, 2)
    features = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    memory = torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        x = model.query_feat.weight[None]
        small = torch.nn.functional.interpolate(features, (2, 2), mode="bilinear")
        forbidden = model.attention_mask(x, small)[0].all(dim=0)  # (4,) to every query
        changed = memory.flatten(2).clone()
        changed[..., forbidden] += 100.0
        before, _ = model(features, [memory], every_layer=False)
        after, _ = model(features, [changed.view_as(memory)], every_layer=False)
        unmasked = decoder(masked=False).eval()
        unmasked.load_state_dict(model.state_dict())
        other, _ = unmasked(features, [changed.view_as(memory)], every_layer=False)
    assert forbidden.tolist() == [False, False, True, True]
    torch.testing.assert_close(before, after)
    assert (other - before).abs().max() > 1e-3


# Whole models


def eomt(side=64):
    preprocessing = replace(EOMT_PREPROCESSING, max_size=side, size_divisor=side)
    config = EoMTConfig(ViTConfig(32, 3, 2, image_size=side), 2, 6, preprocessing)
    torch.manual_seed(0)
    return config.build(DATA.categories)


@pytest.fixture(params=["maskformer_tiny", "mask2former_tiny", "eomt"])
def model(request):
    torch.manual_seed(0)
    return eomt() if request.param == "eomt" else build(request.param, DATA.categories)


def test_every_parameter_is_trained(model):
    losses = model.train()(IMAGES, TARGETS)
    sum(losses.values()).backward()
    without = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.grad is None}
    # maskformer_tiny takes the finer maps of its pyramid.
    assert without <= {f"backbone.output{i}.{j}" for i in (4, 5) for j in (0, 1)}
    assert {name.rstrip("_0123456789") for name in losses} == {"loss_ce", "loss_mask", "loss_dice"}


def test_predictions_have_the_images_sizes(model):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((40, 64), (7, 9))]
    with torch.no_grad():
        predictions = model.eval()(images)
    for image, prediction in zip(images, predictions, strict=True):
        assert prediction.panoptic.ids.shape == prediction.semantic.shape == image.shape[1:]


def test_a_segment_without_pixels_is_no_target(model):
    """As after a crop: the panoptic map lists it and no pixel has its id."""
    target = dict(TARGETS[0])
    panoptic = target["panoptic"]
    gone = panoptic.segments[0].id
    ids = torch.where(panoptic.ids == gone, 0, panoptic.ids)
    target["panoptic"] = replace(panoptic, ids=ids)
    losses = model.train()([IMAGES[0]], [target])
    assert all(bool(loss.isfinite()) for loss in losses.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda target: {**target, "masks": target["masks"]}, None),
        (
            lambda target: {k: v for k, v in target.items() if k != "panoptic"},
            "needs panoptic maps",
        ),
        (lambda target: _with_label(target, 99), "label 99 of a segment is not one of the 7"),
        (
            lambda target: _cropped(target),
            r"masks of \(32, 64\) pixels, but the image has \(64, 64\)",
        ),
    ],
)
def test_targets_that_do_not_fit(model, change, message):
    target = change(TARGETS[0])
    if message is None:
        model.train()(IMAGES[:1], [target])
        return
    with pytest.raises(LabkitError, match=message):
        model.train()(IMAGES[:1], [target])


def test_fewer_targets_than_images(model):
    with pytest.raises(LabkitError, match="2 images but 1 target"):
        model.train()(IMAGES, TARGETS[:1])


def _with_label(target, label):
    panoptic = target["panoptic"]
    changed = [replace(panoptic.segments[0], label=label), *panoptic.segments[1:]]
    return {**target, "panoptic": replace(panoptic, segments=changed)}


def _cropped(target):
    panoptic = target["panoptic"]
    return {**target, "panoptic": replace(panoptic, ids=panoptic.ids[:32])}


def test_eomt_pads_with_black():
    batch = preprocess([torch.full((3, 320, 640), 255, dtype=torch.uint8)], EOMT_PREPROCESSING)
    mean, std = (torch.tensor(x) for x in (EOMT_PREPROCESSING.mean, EOMT_PREPROCESSING.std))
    assert batch.padded_size == (640, 640)
    torch.testing.assert_close(batch.tensor[0, :, 400, 5], -mean / std)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (480, 640)),
        ((427, 640), (427, 640)),
        ((100, 201), (318, 640)),
        ((1, 999), (1, 640)),
    ],
)
def test_eomt_resizes_the_longer_side(size, expected):
    batch = preprocess([torch.zeros(3, *size, dtype=torch.uint8)], EOMT_PREPROCESSING)
    assert batch.input_sizes == [expected]


def test_eomt_refuses_other_sizes_in_training():
    with pytest.raises(LabkitError, match=r"input of 128 x 128 pixels: .* 64 x 64"):
        eomt().train()([torch.zeros(3, 70, 70, dtype=torch.uint8)], TARGETS[:1])


def test_a_query_that_is_not_masked_sees_every_patch():
    model = eomt()
    logits = torch.full((1, 6, 16, 16), -1.0)
    logits[:, 0, :8] = 1.0  # the upper half
    tokens = 6 + 5 + 16
    allowed = model.attention_mask(logits, tokens, torch.tensor(1.0))[0, 0]
    assert allowed[0, -16:].tolist() == [True] * 8 + [False] * 8
    assert not allowed[1, -16:].any()
    assert allowed[:, :-16].all()  # queries, class token and registers are never hidden
    assert allowed[6:].all()
    assert model.attention_mask(logits, tokens, torch.tensor(0.0)).all()


def test_numbers_of_parameters():
    """Of the papers' code: 44.0 M for Mask2Former with R50, 24.0 M for EoMT with ViT-S."""
    categories = Categories(Category(i + 1, f"c{i}", isthing=i < 80) for i in range(133))
    for preset, millions, entries in (
        ("mask2former_r50", 43.98, 557),
        ("eomt_small_640", 23.98, 195),
    ):
        with torch.device("meta"):
            built = PRESETS[preset].build(categories)
        count = sum(p.numel() for p in built.parameters()) / 1e6
        assert (round(count, 2), len(built.state_dict())) == (millions, entries)
