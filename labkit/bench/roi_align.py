"""Times of RoIAlign against torchvision's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from labkit.bench.peer_comparison import PeerComparison, compare_with_peer
from labkit.ops import roi_align, roi_align_compiled
from labkit.ops.roi_align import Implementation
from labkit.system.cpu_cores import available_cores
from labkit.system.progress_bars import progress_bar

GPU_TARGET = 1.5  # forward + backward
GPU_CALLS = 20  # in a row, so that the GPU computes one while the CPU prepares the next
ROUNDS = range(3, 16)


@dataclass(frozen=True)
class Case:
    """One call of RoIAlign on a batch of one image, ``aligned=True``, float32.

    Attributes:
        name: what is pooled from.
        channels: C of the feature map.
        height: its rows.
        width: its columns.
        scale: feature cells per image pixel.
        boxes: how many.
        sides: the smallest and the largest box, as the square root of its area in image pixels.
        bins: bins along either axis.
        ratio: samples per bin and axis; 0 is adaptive.
        channels_last: memory format of the map.
        backward: whether the gradient of the map is computed as well.
        impl: labkit's implementation.
        target: the ratio to torchvision to reach; None where none is set.
    """

    name: str
    channels: int
    height: int
    width: int
    scale: float
    boxes: int
    sides: tuple[float, float]
    bins: int
    ratio: int
    channels_last: bool = False
    backward: bool = False
    impl: Implementation = "compiled"
    target: float | None = None

    def describe(self) -> str:
        parts = [self.name, "adaptive" if self.ratio <= 0 else f"ratio {self.ratio}"]
        if self.impl != "compiled":
            parts.append(self.impl)
        if self.channels_last:
            parts.append("channels-last")
        parts.append("forward + backward" if self.backward else "forward")
        return ", ".join(parts)


# An FPN's finest level on an 800 x 1216 image. Boxes up to 112 pixels are the ones it gets (Lin et
# al., Feature Pyramid Networks, CVPR 2017, equation 1), and the hardest for labkit: the larger the
# box, the more there is to gain.
FPN = Case("p2, 1000 boxes, 7x7", 256, 200, 304, 1 / 4, 1000, (16.0, 112.0), 7, 2)
# The single map of a C4 network on the same image, which gets boxes of every size.
C4 = Case("C4, 300 boxes, 14x14", 1024, 50, 76, 1 / 16, 300, (32.0, 512.0), 14, 0)


def headline_cases(device: str) -> list[Case]:
    """Timed cases on ``"cpu"`` or ``"cuda"``, with their targets."""
    cases = []
    for ratio in (2, 0):
        base = replace(FPN, ratio=ratio)
        cases += [
            replace(base, target=5),
            replace(base, channels_last=True, target=8),
            replace(base, backward=True, target=4),
            replace(base, channels_last=True, backward=True, target=4),
        ]
    cases.append(replace(C4, target=3.5))
    if device == "cuda":
        cases.append(replace(C4, backward=True))
        return [replace(c, target=GPU_TARGET if c.backward else None) for c in cases]
    return [*cases, replace(FPN, impl="separable"), replace(FPN, name="p2, 5 boxes, 7x7", boxes=5)]


@dataclass(frozen=True)
class RoIAlignMeasurement:
    """Times of a case; ``threads`` is None on a GPU."""

    case: Case
    threads: int | None
    comparison: PeerComparison

    def to_json(self) -> dict[str, Any]:
        return {**self.comparison.to_json(), "threads": self.threads, "case": asdict(self.case)}


def thread_counts(device: str) -> list[int | None]:
    """Numbers of CPU threads to time: two, if there are two cores, and one; None on a GPU."""
    if device == "cuda":
        return [None]
    return [2, 1] if available_cores() > 1 else [1]


def measure_all(
    cases: Sequence[Case], device: str, threads: Sequence[int | None], seconds: float = 3.0
) -> list[RoIAlignMeasurement]:
    """Time every case at every number of threads, with a progress bar; see :func:`measure`.

    Raises:
        BuildError: the operator cannot be compiled here.
    """
    roi_align_compiled.load_operator(device)
    pairs = [(case, count) for count in threads for case in cases]
    return [
        measure(case, device, count, seconds)
        for case, count in progress_bar(pairs, desc="RoIAlign", unit="case")
    ]


def measure(
    case: Case, device: str, threads: int | None, seconds: float = 3.0
) -> RoIAlignMeasurement:
    """Time labkit and torchvision on a case in alternation, after a warm-up.

    The result in the comparison is the mean of what is pooled, or of the map's gradient.

    Args:
        case: what to time.
        device: "cpu" or "cuda".
        threads: of torch while it runs; None leaves them.
        seconds: how long the rounds may take together; at least three are run.
    """
    features, rois = make_inputs(case, device)
    with torch_threads(threads):
        ours, peer = (
            partial(_timed, _call(case, operator, features, rois), device)
            for operator in (partial(roi_align, impl=case.impl), torchvision.ops.roi_align)
        )
        round_seconds = ours()[0] + peer()[0]
        comparison = compare_with_peer(
            case.describe(),
            "torchvision",
            ours,
            peer,
            items=_calls(device),
            target=case.target,
            repeats=min(max(int(seconds / round_seconds), ROUNDS[0]), ROUNDS[-1]),
        )
    return RoIAlignMeasurement(case, threads, comparison)


def make_inputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Make a random map ``(1, C, H, W)`` and boxes ``(K, 5)`` on it, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, case.channels, case.height, case.width, generator=generator)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return features.to(device, memory_format=layout), make_rois(case).to(device)


def make_rois(case: Case, seed: int = 0) -> Tensor:
    """Make random boxes ``(K, 5)`` in image pixels, with the image's index 0 first.

    The square root of the area is log-uniform between ``case.sides``, the ratio of width to height
    log-uniform from 1/2 to 2; a box that the image cannot hold is cut to it, and each lies anywhere
    in the image.
    """
    generator = torch.Generator().manual_seed(seed)
    size_draw, shape_draw, x_draw, y_draw = torch.rand(4, case.boxes, generator=generator)
    smallest, largest = case.sides
    side = smallest * (largest / smallest) ** size_draw
    root = 2 ** (shape_draw - 0.5)  # of the ratio of width to height
    image_width, image_height = case.width / case.scale, case.height / case.scale
    width, height = (side * root).clamp(max=image_width), (side / root).clamp(max=image_height)
    x, y = x_draw * (image_width - width), y_draw * (image_height - height)
    return torch.stack([torch.zeros_like(x), x, y, x + width, y + height], dim=1)


def _call(
    case: Case, operator: Callable[..., Tensor], features: Tensor, rois: Tensor
) -> Callable[[], Tensor]:
    """Make a function that runs the case once and returns the output, or the map's gradient."""
    options = (rois, case.bins, case.scale, case.ratio, True)
    if not case.backward:
        return lambda: operator(features, *options)
    leaf = features.detach().requires_grad_()
    pooled = operator(leaf, *options)
    # In the memory format of the output, as the layer that follows would hand it back.
    generator = torch.Generator().manual_seed(1)
    upstream = torch.empty_like(pooled).copy_(torch.rand(pooled.shape, generator=generator))
    return lambda: torch.autograd.grad(operator(leaf, *options), leaf, upstream)[0]


def _calls(device: str) -> int:
    return GPU_CALLS if device == "cuda" else 1


def _timed(function: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Measure the seconds of the calls of one round, and the mean of the result."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(_calls(device)):
            result = function()
        end.record()
        torch.cuda.synchronize()
        seconds = start.elapsed_time(end) / 1000
    else:
        begin = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - begin
    return seconds, result.mean().item()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set torch's threads within a block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
