"""Times of the steps from branch outputs to panoptic map, on the CPU.

One image of 480 × 640 pixels with 100 objects. The merge is compared with Detectron2's function on
the same masks and semantic map; UPSNet's fusion uses the same objects.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.peer_comparison import PeerComparison, compare_with_peer
from labkit.datasets.coco.categories import coco_panoptic
from labkit.errors import LabkitError
from labkit.models.layers import resize_bilinear
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.rcnn.mask_head import paste_masks
from labkit.models.upsnet.assign_segments import assign_segments
from labkit.models.upsnet.panoptic_argmax import panoptic_argmax
from labkit.models.upsnet.panoptic_head import prune, resized_masks, windows_of
from labkit.structures import Detections
from labkit.system import optional_packages

TARGET = 2.0
ROUNDS = 9
SIZE = (480, 640)
OBJECTS = 100
CATEGORIES = coco_panoptic()
THINGS, CLASSES = len(CATEGORIES.things), len(CATEGORIES)


@dataclass(frozen=True)
class BranchOutputs:
    """Outputs of a network's branches for one image.

    Attributes:
        boxes: ``(n, 4)``, best object first.
        scores: ``(n,)``, all above the merge's threshold.
        labels: ``(n,)``.
        mask_logits: ``(n, 28, 28)``.
        semantic: ``(C, H/4, W/4)`` logits of all categories.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    mask_logits: Tensor
    semantic: Tensor


def branch_outputs() -> BranchOutputs:
    """Make overlapping objects of all sizes with round masks, and smooth semantic logits."""
    generator = torch.Generator().manual_seed(0)
    height, width = SIZE
    side = torch.rand(OBJECTS, 2, generator=generator).pow(2) * 200 + 16
    centre = torch.rand(OBJECTS, 2, generator=generator) * torch.tensor([width, height])
    limit = torch.tensor([width, height]).float()
    corners = [(centre - side / 2).clamp(min=0), torch.minimum(centre + side / 2, limit)]
    grid = torch.linspace(-1.2, 1.2, 28)
    disc = 1 - grid[:, None] ** 2 - grid[None, :] ** 2
    noise = torch.randn(OBJECTS, 1, 7, 7, generator=generator)
    noise = F.interpolate(noise, size=(28, 28), mode="bicubic")[:, 0]
    semantic = torch.randn(1, CLASSES, 9, 12, generator=generator)
    semantic[:, :THINGS] *= 0.5  # eighty of them: else one of them would win nearly everywhere
    return BranchOutputs(
        torch.cat(corners, dim=1),
        torch.linspace(0.999, 0.61, OBJECTS),
        torch.randint(0, THINGS, (OBJECTS,), generator=generator),
        4 * disc + noise,
        4 * F.interpolate(semantic, size=(height // 4, width // 4), mode="bicubic")[0],
    )


def steps(given: BranchOutputs) -> dict[str, float]:
    """Median milliseconds of each step of both fusions."""
    detections, labels = inputs_of_merge(given)
    windows = windows_of(given.boxes, SIZE)
    large = resized_masks(given.mask_logits, windows.mask)
    kept = prune(large, windows.mask, given.labels, SIZE)
    windows_kept = windows_of(given.boxes[kept], SIZE)
    large_kept = [large[i] for i in kept]
    fused = panoptic_argmax(
        given.semantic, THINGS, given.labels[kept], large_kept, windows_kept, SIZE
    )
    timed: dict[str, Callable[[], Any]] = {
        "Panoptic FPN: semantic logits to labels": lambda: semantic_labels(given),
        "Panoptic FPN: masks into the image": lambda: pasted(given),
        "Panoptic FPN: merge": lambda: merge(detections, labels, CATEGORIES),
        "UPSNet: masks to the size of their boxes": lambda: resized_masks(
            given.mask_logits, windows.mask
        ),
        f"UPSNet: pruning ({len(kept)} objects stay)": lambda: prune(
            large, windows.mask, given.labels, SIZE
        ),
        "UPSNet: the largest logit of each pixel": lambda: panoptic_argmax(
            given.semantic, THINGS, given.labels[kept], large_kept, windows_kept, SIZE
        ),
        "UPSNet: votes and small stuff": lambda: assign_segments(
            fused, given.labels[kept], given.scores[kept], CLASSES, THINGS
        ),
    }
    return {name: _milliseconds(call) for name, call in timed.items()}


def semantic_labels(given: BranchOutputs) -> Tensor:
    """``(H, W)``: all things as one class, label 0, as the published networks have it."""
    things = given.semantic[:THINGS].amax(dim=0, keepdim=True)
    outputs = torch.cat([things, given.semantic[THINGS:]])  # (1 + stuff, H/4, W/4)
    logits = resize_bilinear(outputs[None], SIZE)
    label = logits[0].argmax(dim=0)
    return torch.where(label == 0, 0, label + THINGS - 1)


def pasted(given: BranchOutputs) -> Tensor:
    """The masks ``(n, H, W)``."""
    return paste_masks(given.mask_logits.sigmoid(), given.boxes, SIZE)


def inputs_of_merge(given: BranchOutputs) -> tuple[Detections, Tensor]:
    """The objects with their masks, and the semantic map."""
    found = Detections(given.boxes, given.scores, given.labels, pasted(given))
    return found, semantic_labels(given)


def compare_merge(given: BranchOutputs) -> PeerComparison:
    """Time the merge against Detectron2's.

    Raises:
        LabkitError: Detectron2 cannot be used, or its map is another.
    """
    optional_packages.require_package("detectron2")
    from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
    from detectron2.structures import Instances

    found, semantic = inputs_of_merge(given)
    instances = Instances(
        SIZE, scores=found.scores, pred_classes=found.labels, pred_masks=found.masks
    )
    outputs = torch.where(semantic < THINGS, 0, semantic - THINGS + 1)  # things 0, stuff from 1 on

    def ours() -> Tensor:
        return merge(found, semantic, CATEGORIES).ids

    def theirs() -> Tensor:
        ids: Tensor = combine_semantic_and_instance_outputs(instances, outputs, 0.5, 4096, 0.5)[0]
        return ids

    ids = ours()
    if not torch.equal(ids, theirs()):
        raise LabkitError("bench panoptic: Detectron2's panoptic map differs from labkit's")
    return compare_with_peer(
        f"merge, {SIZE[0]} x {SIZE[1]}, {OBJECTS} objects, {len(ids.unique())} segments, same map",
        "Detectron2",
        lambda: _timed(ours),
        lambda: _timed(theirs),
        items=1,
        target=TARGET,
        repeats=ROUNDS,
    )


def _timed(call: Callable[[], Tensor]) -> tuple[float, float]:
    """Measure seconds, and the share of the image that is not void."""
    begin = time.perf_counter()
    ids = call()
    return time.perf_counter() - begin, (ids > 0).float().mean().item()


def _milliseconds(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)
