"""The score threshold of each method, moved where the method has it, without its network.

- Panoptic FPN: the heuristic merge, done again from the objects and the semantic map.
- UPSNet: which objects take part in the fusion, done again from the logits.
- Mask R-CNN: which objects are shown.
- Any other method with a map: which objects are left in it.

A semantic model has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from labkit.models.panoptic_fpn.merge import merge
from labkit.models.panoptic_fpn.panoptic_fpn import PanopticFPN
from labkit.models.rcnn.roi_heads import Found
from labkit.models.upsnet.upsnet import UPSNet
from labkit.structures import IGNORE, VOID, Detections, Panoptic, Prediction, Segment

DRAWN_SCORE = 0.5
"""What ``labkit predict`` draws of a model that only lists objects."""

LOWEST = 0.05
"""No method lists objects below it."""

Result = Panoptic | Detections
"""What is shown of a model: its map, or for one that only lists objects these."""


@dataclass(frozen=True)
class Threshold:
    """A method's threshold for one picture.

    Attributes:
        own: the method's own, as it was published; None where it has none.
        meaning: what it does, in words.
        at: the result at any value.
    """

    own: float | None
    meaning: str
    at: Callable[[float], Result]


@contextmanager
def candidates_kept(model: nn.Module) -> Iterator[list[Any]]:
    """Keep what UPSNet's fusion is given, with objects down to the lowest score.

    The fusion itself still sees those above the model's own threshold, so that result and time stay
    the model's. Of other models nothing is kept.
    """
    kept: list[Any] = []
    if not isinstance(model, UPSNet):
        yield kept
        return
    config = model.config

    def fused(scores: Tensor, found: Found, masks: Tensor, *sizes: Any) -> tuple[Tensor, Panoptic]:
        kept[:] = scores, found, masks, *sizes
        return UPSNet.fused(model, scores, *_above(found, masks, config.fusion.score), *sizes)

    model.fused = fused  # type: ignore[method-assign, assignment]
    model.config = replace(config, fusion=replace(config.fusion, score=config.roi.score))
    try:
        yield kept
    finally:
        model.config = config
        del model.fused  # the class's method is seen again


def threshold_of(model: nn.Module, prediction: Prediction, kept: list[Any]) -> Threshold:
    """The threshold of a model that predicted, with what :func:`candidates_kept` kept."""
    found, semantic = prediction.detections, prediction.semantic
    if isinstance(model, UPSNet):
        scores, candidates, masks, *sizes = kept
        upsnet = model

        @torch.no_grad()
        def refuse(score: float) -> Panoptic:
            # The class's method: another thread may be keeping candidates at the moment.
            objects = _above(candidates, masks, score)
            _, panoptic = UPSNet.fused(upsnet, scores, *objects, *sizes)
            return Panoptic(panoptic.ids.cpu(), panoptic.segments)

        meaning = "objects above it take part in the fusion, which is done again when it changes"
        return Threshold(model.config.fusion.score, meaning, refuse)
    if found is None:
        assert semantic is not None
        classes = _as_panoptic(semantic)
        return Threshold(None, "none: it finds no objects", lambda score: classes)
    if isinstance(model, PanopticFPN):
        assert semantic is not None
        config, categories, labels = model.config, model.categories, semantic

        def remerge(score: float) -> Panoptic:
            limits = {"overlap": config.overlap, "stuff_area": config.stuff_area}
            return merge(found, labels, categories, score=score, **limits)  # type: ignore[arg-type]

        meaning = "objects that reach it enter the merge, which is done again when it changes"
        return Threshold(config.score, meaning, remerge)
    finished = prediction.panoptic
    if finished is not None:
        meaning = "objects below it are left out of the finished map"
        return Threshold(0.0, meaning, lambda score: _without(finished, score))
    return Threshold(
        DRAWN_SCORE, "objects that reach it are shown", lambda score: _best(found, score)
    )


def _above(found: Found, masks: Tensor, score: float) -> tuple[Found, Tensor]:
    """UPSNet's objects at a higher threshold.

    Only better objects suppress an object, so that what suppression left above a threshold is what
    it would have left had the others not been there.
    """
    keep = found.scores > score
    return Found(found.boxes[keep], found.scores[keep], found.labels[keep]), masks[keep]


def _best(found: Detections, score: float) -> Detections:
    keep = found.scores >= score
    masks = None if found.masks is None else found.masks[keep]
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], masks)


def _without(panoptic: Panoptic, score: float) -> Panoptic:
    """A map of a method that has no such threshold: what goes leaves a hole."""
    stay = [s for s in panoptic.segments if s.score is None or s.score >= score]
    gone = torch.tensor([s.id for s in panoptic.segments if s not in stay], dtype=torch.int32)
    return Panoptic(panoptic.ids.masked_fill(torch.isin(panoptic.ids, gone), VOID), stay)


def _as_panoptic(semantic: Tensor) -> Panoptic:
    """A semantic map with one segment for each class."""
    labels = [int(label) for label in semantic.unique() if label != IGNORE]
    ids = torch.where(semantic == IGNORE, 0, semantic + 1).to(torch.int32)
    return Panoptic(ids, [Segment(label + 1, label) for label in labels])
