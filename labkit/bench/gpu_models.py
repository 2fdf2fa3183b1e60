"""Prediction and training step of a network: time, memory, and differences from CPU float32.

``python -m labkit.bench.gpu_models PRESET --device cuda --out FILE`` measures one of them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
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
SIDE, IMAGES, REPEATS = 512, 2, 5


def measure(preset: str, device: torch.device, side: int, repeats: int) -> dict[str, Any]:
    """Measure one network.

    Args:
        preset: with the weights that come with labkit, or random ones.
        device: where to measure; what to compare with is computed on the CPU in float32.
        side: of the pictures; the tiny networks have those of their training, 128.
        repeats: measurements of which the median counts.

    Returns:
        ``{"float32": {...}, "bfloat16": {...}}``: milliseconds and megabytes of a prediction and of
        a training step; ``loss`` and by which share it differs from the CPU's; ``same_pixels``, the
        share of the panoptic (else semantic) map that is the CPU's; ``score_difference``, the
        largest among the ten best objects' scores.
    """
    own, small = shipped(), "tiny" in preset
    data = Shapes("val", num=IMAGES, size=128 if small else side)
    torch.manual_seed(0)
    model = own[preset].load() if preset in own else build(preset, data.categories)
    images, targets = zip(*(data[i] for i in range(IMAGES)), strict=True)
    cpu = torch.device("cpu")
    expected = Predictor(model, cpu)(images[0])
    loss = _training_step(copy.deepcopy(model), images, targets, cpu, "float32")[0]()
    figures: dict[str, Any] = {}
    for precision in PRECISIONS:
        predictor = Predictor(model, device, precision)
        ms, megabytes, found = _timed(lambda p=predictor: p(images[0]), device, repeats)  # type: ignore[misc]
        row: dict[str, Any] = {"predict_ms": ms, "predict_mb": megabytes}
        row |= _differences(found, expected)
        del predictor
        step, values = _training_step(copy.deepcopy(model), images, targets, device, precision)
        ms, megabytes, _ = _timed(step, device, repeats)
        row |= {"train_ms": ms, "train_mb": megabytes, "loss": values[0]}
        row["loss_difference"] = abs(values[0] - loss) / abs(loss)
        figures[precision] = row
    return figures


def _training_step(
    model: nn.Module,
    images: tuple[Tensor, ...],
    targets: tuple[Target, ...],
    device: torch.device,
    precision: str,
) -> tuple[Callable[[], float], list[float]]:
    """Make a function that trains one step and returns the loss, and the list of its losses."""
    model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    there = [image.to(device) for image in images], [target_to(t, device) for t in targets]
    values: list[float] = []

    def step() -> float:
        torch.manual_seed(0)
        with _draws_of_the_cpu(), autocast(device, precision):
            total = torch.stack(list(model(*there).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
        return values[-1]

    return step, values


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


def _timed(
    function: Callable[[], Any], device: torch.device, repeats: int
) -> tuple[float, float | None, Any]:
    """Median milliseconds, peak megabytes on a GPU, and the first call's result."""
    gpu = device.type == "cuda"
    first = function()  # warms up
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 1e6 if gpu else None
    return 1000 * statistics.median(times), peak, first


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
    side, repeats = (64, 1) if options.small else (SIDE, REPEATS)
    figures = measure(options.preset, default_device(options.device), side, repeats)
    write_json(options.out, figures)
    for precision, row in figures.items():
        print(precision, row)


if __name__ == "__main__":
    main()
