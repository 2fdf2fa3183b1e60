"""Times of Mask2Former against the package transformers, with the same weights and images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from labkit.bench.peer_comparison import PeerComparison, compare_with_peer, timed
from labkit.bench.transformers_models import mask2former_twin, randomize
from labkit.datasets.coco.categories import coco_panoptic
from labkit.models import build
from labkit.models.mask2former.criterion import mask_classification_losses
from labkit.models.mask2former.eomt import EoMT
from labkit.models.mask2former.mask2former import Mask2Former
from labkit.models.preprocess import Batch
from labkit.models.targets import Segments
from labkit.ops.ms_deform_attn import ms_deform_attn

TARGET = 1.3  # times as fast as transformers
SIDE = 512  # pixels
SEGMENTS = 8  # of each image


def measure_all(side: int = SIDE, repeats: int = 5) -> list[PeerComparison]:
    """Time inference, a training step and deformable attention alone, in alternation.

    Args:
        side: of the square images: one to predict, two to learn from.
        repeats: rounds.

    Raises:
        LabkitError: transformers is not installed.
    """
    torch.manual_seed(0)
    model = build("mask2former_r50", coco_panoptic())
    assert isinstance(model, Mask2Former)
    randomize(model)
    twin = mask2former_twin(model)
    images = torch.randn(2, 3, side, side)
    return [
        _compare("Mask2Former R50, inference", inference(model, twin, images[:1]), repeats),
        _compare("Mask2Former R50, training step", training(model, twin, images), repeats),
        _compare("deformable attention", _attention(side), 3 * repeats),
    ]


def _compare(
    task: str, pair: tuple[Callable[[], float], Callable[[], float]], repeats: int
) -> PeerComparison:
    ours, theirs = (partial(timed, function) for function in pair)
    ours(), theirs()  # warm up
    return compare_with_peer(task, "transformers", ours, theirs, 1, TARGET, repeats)


def inference(
    model: Mask2Former | EoMT, twin: nn.Module, images: Tensor
) -> tuple[Callable[[], float], Callable[[], float]]:
    """From normalised images to the last predictions; the mean of the mask logits."""
    sizes = [(images.shape[2], images.shape[3])] * len(images)
    batch = Batch(images, sizes, sizes)

    @torch.inference_mode()
    def ours() -> float:
        model.eval()
        features: Any = model.backbone(images)
        return float(model.predict(features, batch).mask_logits.mean())

    @torch.inference_mode()
    def theirs() -> float:
        twin.eval()
        return float(twin(pixel_values=images).masks_queries_logits.mean())

    return ours, theirs


def training(
    model: Mask2Former | EoMT, twin: nn.Module, images: Tensor
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Forward, losses and backward, with equal draws; the loss.

    Both in evaluation mode: transformers' batch norms would learn otherwise, labkit's are frozen.
    """
    side = images.shape[-1]
    targets = [
        Segments(
            i,
            torch.arange(SEGMENTS, device=images.device),
            torch.rand(SEGMENTS, side, side, device=images.device) > 0.5,
        )
        for i in range(len(images))
    ]

    def ours() -> float:
        model.eval().zero_grad()
        torch.manual_seed(0)
        features: Any = model.backbone(images)
        if isinstance(model, EoMT):
            classes, masks = model.decode(features, masked=True)
        else:
            classes, masks = model.decoder(*model.pixel_decoder(features), every_layer=True)
        losses = mask_classification_losses(classes, masks, targets, model.config.loss)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return float(loss.detach())

    def theirs() -> float:
        twin.eval().zero_grad()
        torch.manual_seed(0)
        loss = twin(
            pixel_values=images,
            mask_labels=[target.masks.float() for target in targets],
            class_labels=[target.classes for target in targets],
        ).loss
        loss.backward()
        return float(loss.detach())

    return ours, theirs


def _attention(side: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Of one encoder layer: 8 heads of 32 channels, 3 levels, 4 points; the mean."""
    from transformers.models.mask2former.modeling_mask2former import (
        multi_scale_deformable_attention,
    )

    sizes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    cells = sum(height * width for height, width in sizes)
    value = torch.randn(1, cells, 8, 32)
    places = torch.rand(1, cells, 8, 3, 4, 2)
    weights = torch.rand(1, cells, 8, 12).softmax(dim=-1).unflatten(-1, (3, 4))

    def timed_call(function: Callable[..., Tensor]) -> Callable[[], float]:
        @torch.inference_mode()
        def run() -> float:
            return float(function(value, sizes, places, weights).mean())

        return run

    return timed_call(ms_deform_attn), timed_call(multi_scale_deformable_attention)
