"""Prediction and training step of a network: differences from the CPU in float32.

``python -m labkit.bench.gpu_models PRESET --device cuda --out FILE`` measures one of them.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from labkit.checkpoints.shipped import shipped
from labkit.datasets.coco.panoptic_json import write_json
from labkit.datasets.shapes import Shapes
from labkit.engine.precision import autocast
from labkit.engine.predictor import Predictor
from labkit.models import build
from labkit.structures import Prediction, Target, target_to
from labkit.system.distributed import default_device

NETWORKS = (
    "fcn8_tiny",
    "deeplab_tiny",
    "mask_rcnn_r50",
    "panoptic_fpn_r50",
    "upsnet_r101_dcn",
    "detr_r50",
    "detr_panoptic_r50",
    "mask2former_r50",
    "eomt_small_640",
    # With trained weights, whose answers can be compared:
    "mask_rcnn_tiny",
    "panoptic_fpn_tiny",
    "upsnet_tiny",
    "detr_panoptic_tiny",
    "mask2former_tiny",
)
SMALL_NETWORKS = ("fcn8_tiny", "panoptic_fpn_tiny")
PRECISIONS = ("float32", "bfloat16")
SIDE, IMAGES = 512, 2


def measure(preset: str, device: torch.device, side: int) -> dict[str, Any]:
    """Measure one network.

    Args:
        preset: with the weights that come with labkit, or random ones.
        device: where to measure; what to compare with is computed on the CPU in float32.
        side: of the images; the tiny networks have those of their training, 128.

    Returns:
        ``{"float32": {...}, "bfloat16": {...}}``: ``loss`` and by which share it differs from the
        CPU's; ``same_pixels``, the share of the panoptic (else semantic) map that is the CPU's;
        ``score_difference``, the largest among the ten best objects' scores.
    """
    own, small = shipped(), "tiny" in preset
    data = Shapes("val", num=IMAGES, size=128 if small else side)
    torch.manual_seed(0)
    model = own[preset].load() if preset in own else build(preset, data.categories)
    images, targets = zip(*(data[i] for i in range(IMAGES)), strict=True)
    cpu = torch.device("cpu")
    expected = Predictor(model, cpu)(images[0])
    expected_loss = _training_loss(copy.deepcopy(model), images, targets, cpu, "float32")
    figures: dict[str, Any] = {}
    for precision in PRECISIONS:
        row: dict[str, Any] = dict(
            _differences(Predictor(model, device, precision)(images[0]), expected)
        )
        loss = _training_loss(copy.deepcopy(model), images, targets, device, precision)
        row |= {"loss": loss, "loss_difference": abs(loss - expected_loss) / abs(expected_loss)}
        figures[precision] = row
    return figures


def _training_loss(
    model: nn.Module,
    images: tuple[Tensor, ...],
    targets: tuple[Target, ...],
    device: torch.device,
    precision: str,
) -> float:
    """Loss of a training step, after another one: both directions have worked."""
    model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    there = [image.to(device) for image in images], [target_to(t, device) for t in targets]
    total = torch.zeros(())
    for _ in range(2):
        torch.manual_seed(0)
        with _draws_of_the_cpu(), autocast(device, precision):
            total = torch.stack(list(model(*there).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
    return float(total.detach())


@contextmanager
def _draws_of_the_cpu() -> Iterator[None]:
    """Sample proposals and points with the CPU's random numbers; a GPU has others."""
    permutation, uniform = torch.randperm, torch.rand

    def randperm(count: int, *, device: torch.device | None = None) -> Tensor:
        return permutation(count).to(device)

    def rand(*size: int, device: torch.device | None = None) -> Tensor:
        return uniform(*size).to(device)

    with (
        mock.patch.object(torch, "randperm", randperm),
        mock.patch.object(torch, "rand", rand),
    ):
        yield


def _differences(found: Prediction, expected: Prediction) -> dict[str, float | None]:
    a, b = found.semantic, expected.semantic
    if found.panoptic is not None and expected.panoptic is not None:
        a, b = found.panoptic.ids, expected.panoptic.ids
    same = None if a is None or b is None else float((a == b).float().mean())
    scores = None
    if found.detections is not None and expected.detections is not None:
        mine, theirs = (
            torch.nn.functional.pad(one.scores[:10], (0, 10 - len(one.scores[:10])))
            for one in (found.detections, expected.detections)
        )
        scores = float((mine - theirs).abs().max())
    return {"same_pixels": same, "score_difference": scores}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset")
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    side = 64 if options.small else SIDE
    figures = measure(options.preset, default_device(options.device), side)
    write_json(options.out, figures)
    for precision, row in figures.items():
        print(precision, row)


if __name__ == "__main__":
    main()
