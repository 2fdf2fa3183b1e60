"""Profile of a detector by its parts."""

from __future__ import annotations

import cProfile
import inspect
import pstats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from labkit.models import preprocess
from labkit.models.backbones.fpn import FPN
from labkit.models.backbones.resnet import ResNet
from labkit.models.rcnn import mask_head, roi_pooler
from labkit.models.rcnn.roi_heads import BoxHead, RoIHeads
from labkit.models.rcnn.rpn import RPN
from labkit.models.targets import check_targets


@dataclass(frozen=True)
class ProfiledPart:
    """A part of a detector: its functions, and the part that calls them."""

    name: str
    functions: tuple[Callable[..., Any], ...]
    inside: str | None = None


PARTS = (
    ProfiledPart("resizing", (preprocess.resize_image,)),
    ProfiledPart("checks, normalising", (check_targets, preprocess.normalize_and_pad)),
    ProfiledPart("backbone", (ResNet.forward,), "pyramid"),
    ProfiledPart("pyramid", (FPN.forward,)),
    ProfiledPart("RPN", (RPN.forward,)),
    ProfiledPart("proposals and NMS", (RPN.propose,), "RPN"),
    ProfiledPart("RoI pooling", (roi_pooler.pool,), "scores, boxes, NMS"),
    ProfiledPart("box head", (BoxHead.forward,), "scores, boxes, NMS"),
    ProfiledPart("mask head", (mask_head.MaskHead.forward,), "scores, boxes, NMS"),
    ProfiledPart("mask targets", (mask_head.crop_masks,), "scores, boxes, NMS"),
    ProfiledPart("scores, boxes, NMS", (RoIHeads.forward, RoIHeads.losses)),
    ProfiledPart("mask pasting", (mask_head.paste_masks, mask_head.paste_masks_by_resizing)),
    ProfiledPart("backward", (torch.Tensor.backward,)),
    ProfiledPart("optimizer", (torch.optim.SGD.step,)),
)
"""The time of a part is without that of the parts inside it."""


def profile(
    call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Profile one call: milliseconds by part, in the order of execution.

    Args:
        call: computes on the CPU: a profiler does not wait for a GPU.
        clock: returns seconds; ``time.process_time`` for one thread beside other programs.
    """
    profiler = cProfile.Profile(clock)
    profiler.runcall(call)
    stats = pstats.Stats(profiler)
    seconds = {
        function: cumulative
        for function, (_, _, _, cumulative, _) in stats.stats.items()  # type: ignore[attr-defined]
    }
    spent = {part.name: sum(seconds.get(_key(f), 0.0) for f in part.functions) for part in PARTS}
    total: float = stats.total_tt  # type: ignore[attr-defined]
    own = dict(spent)
    for part in PARTS:
        if part.inside is not None:
            own[part.inside] -= spent[part.name]
    own["the rest"] = total - sum(own.values())
    return {name: 1000 * value for name, value in own.items() if spent.get(name, 1.0) > 0}


def print_profile(title: str, parts: Mapping[str, float]) -> None:
    """Print a table of the results of :func:`profile`."""
    table = Table(title=title)
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    total = sum(parts.values())
    for name, milliseconds in parts.items():
        table.add_row(name, f"{milliseconds:.1f}", f"{milliseconds / total:.0%}")
    Console().print(table)


def _key(function: Callable[..., Any]) -> tuple[str, int, str]:
    """Key of a function in the profiler, which counts a decorator's wrapper separately."""
    code = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name
