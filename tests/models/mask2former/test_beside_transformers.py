"""MaskFormer, Mask2Former, EoMT beside an independent implementation: same weights and numbers.

The package transformers runs all three on a CPU. Its read-outs are other ones, and not compared.
"""

import pytest
import torch
from helpers.maskformer_twin import every_layer, maskformer_twin

from labkit.bench.transformers_models import eomt_twin, mask2former_twin, randomize
from labkit.datasets.coco.categories import coco_panoptic
from labkit.models import build
from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.backbones.vit import ViTConfig
from labkit.models.mask2former.criterion import mask_classification_losses
from labkit.models.mask2former.deformable_attention import deformable_attention
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.mask2former.maskformer import MaskFormerConfig
from labkit.models.preprocess import MASK2FORMER_PREPROCESSING
from labkit.models.targets import Segments
from labkit.ops.ms_deform_attn import ms_deform_attn

pytest.importorskip(
    "transformers", reason="transformers is not installed; run: uv sync --group dev"
)
NUM_CLASSES = 133


def segments(height, width):
    """Random classes and masks: three segments in one image, five in the other."""
    generator = torch.Generator().manual_seed(3)
    return [
        Segments(
            i,
            torch.randint(0, NUM_CLASSES, (n,), generator=generator),
            torch.rand(n, height, width, generator=generator) > 0.5,
        )
        for i, n in ((0, 3), (1, 5))
    ]


def close(got, expected, within):
    assert (got - expected).abs().max() <= within


@torch.no_grad()
def test_maskformer_r50():
    """All six predictions and their losses, which have no random draws."""
    torch.manual_seed(0)
    backbone = BackboneConfig("c5", "resnet50", stride_in_1x1=False)
    ours = MaskFormerConfig(MASK2FORMER_PREPROCESSING, backbone, dropout=0.0).build(coco_panoptic())
    randomize(ours)
    # In double precision: with random weights the attention is so sharp that rounding grows.
    ours, theirs = ours.double(), maskformer_twin(ours).double()
    images = torch.randn(2, 3, 96, 160, dtype=torch.float64)
    class_logits, mask_logits = ours.decode(ours.backbone(images), every_layer=True)
    expected = every_layer(theirs, images)
    assert len(class_logits) == len(expected) == 6
    for i, (of_classes, of_masks) in enumerate(expected):
        close(class_logits[i], of_classes, 1e-4)
        close(mask_logits[i], of_masks, 1e-4)

    targets = segments(96, 160)
    losses = mask_classification_losses(class_logits, mask_logits, targets, ours.config.loss)
    theirs.criterion.float()  # the logits are in single precision again
    theirs_losses = theirs.get_loss_dict(
        mask_logits[-1],
        class_logits[-1],
        [t.masks.float() for t in targets],
        [t.classes for t in targets],
        [
            {"class_queries_logits": c, "masks_queries_logits": m}
            for c, m in zip(class_logits[:-1], mask_logits[:-1], strict=True)
        ],
    )
    assert len(losses) == 18
    for name, value in losses.items():
        expected_loss = theirs_losses[name.replace("loss_ce", "loss_cross_entropy")]
        torch.testing.assert_close(value, expected_loss, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def mask2former():
    torch.manual_seed(0)
    ours = build("mask2former_r50", coco_panoptic()).eval()
    randomize(ours)
    theirs = mask2former_twin(ours).eval()
    return ours, theirs


@torch.no_grad()
def test_mask2former_r50(mask2former):
    """All ten predictions, and all thirty losses with equal draws."""
    ours, theirs = mask2former
    images = torch.randn(2, 3, 96, 160)
    expected = theirs(pixel_values=images)
    classes = [a["class_queries_logits"] for a in expected.auxiliary_logits]
    masks = [a["masks_queries_logits"] for a in expected.auxiliary_logits]
    decoded = ours.pixel_decoder(ours.backbone(images))
    class_logits, mask_logits = ours.decoder(*decoded, every_layer=True)
    assert len(class_logits) == len(classes) + 1 == 10
    for i, (of_classes, of_masks) in enumerate(
        zip(
            [*classes, expected.class_queries_logits],
            [*masks, expected.masks_queries_logits],
            strict=True,
        )
    ):
        close(class_logits[i], of_classes, 1e-4)
        close(mask_logits[i], of_masks, 1e-4)
    last, _ = ours.decoder(*decoded, every_layer=False)
    assert torch.equal(last[0], class_logits[-1])

    targets = segments(96, 160)
    torch.manual_seed(7)
    losses = mask_classification_losses(class_logits, mask_logits, targets, ours.config.loss)
    torch.manual_seed(7)
    theirs_losses = theirs.get_loss_dict(
        expected.masks_queries_logits,
        expected.class_queries_logits,
        [t.masks.float() for t in targets],
        [t.classes for t in targets],
        [
            {"class_queries_logits": c, "masks_queries_logits": m}
            for c, m in zip(classes, masks, strict=True)
        ],
    )
    assert len(losses) == 30
    for name, value in losses.items():
        expected_loss = theirs_losses[name.replace("loss_ce", "loss_cross_entropy")]
        torch.testing.assert_close(value, expected_loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12)], ids=["small", "base"])
@torch.no_grad()
def test_eomt(width, heads):
    """Without masks, as in prediction, and with every query masked, as early in training."""
    side = 160
    torch.manual_seed(0)
    vit = ViTConfig(width, 12, heads, image_size=side)
    ours = EoMTConfig(vit, query_blocks=3).build(coco_panoptic()).eval()
    randomize(ours)
    for block in ours.backbone.blocks:  # as large as in a trained network
        block.ls1.gamma.add_(0.5)
        block.ls2.gamma.add_(0.5)
    theirs = eomt_twin(ours)
    images = torch.randn(2, 3, side, side)
    for masked in (False, True):
        theirs.train(masked)
        theirs.attn_mask_probs.fill_(float(masked))
        expected = theirs(pixel_values=images)
        class_logits, mask_logits = ours.decode(ours.backbone(images), masked=masked)
        assert len(class_logits) == (4 if masked else 1)
        scale = mask_logits.abs().max()
        close(class_logits[-1], expected.class_queries_logits, 1e-4)
        close(mask_logits[-1], expected.masks_queries_logits, 1e-5 * max(10, scale))
    targets = segments(side, side)
    torch.manual_seed(7)
    losses = mask_classification_losses(
        class_logits[-1:], mask_logits[-1:], targets, ours.config.loss
    )
    torch.manual_seed(7)
    theirs_losses = theirs.get_loss_dict(
        expected.masks_queries_logits,
        expected.class_queries_logits,
        [t.masks.float() for t in targets],
        [t.classes for t in targets],
        None,
    )
    for name, value in losses.items():
        expected_loss = theirs_losses[name.replace("loss_ce", "loss_cross_entropy")]
        torch.testing.assert_close(value, expected_loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attend", [deformable_attention, ms_deform_attn])
def test_deformable_attention_and_its_gradients(attend):
    from transformers.models.mask2former.modeling_mask2former import (
        multi_scale_deformable_attention,
    )

    torch.manual_seed(0)
    sizes = [(3, 5), (6, 10)]
    value = torch.randn(2, 75, 2, 4, dtype=torch.float64, requires_grad=True)
    places = torch.rand(2, 7, 2, 2, 3, 2, dtype=torch.float64) * 1.6 - 0.3  # some of them outside
    places.requires_grad_()
    weights = torch.rand(2, 7, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    ours = attend(value, sizes, places, weights)
    theirs = multi_scale_deformable_attention(value, sizes, places, weights)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    inputs = (value, places, weights)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
