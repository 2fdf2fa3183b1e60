"""From UPSNet's two branches to a panoptic map, at full resolution and with little memory.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.
The logits are those of :mod:`labkit.models.upsnet.panoptic_head`, and so is their argmax. But 153
of them for each of a million pixels would be 600 MB, so they are never all there: stuff is reduced
strip by strip, and an object is looked at only inside its box, since outside it its logit is 0.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``n`` objects, ``h × w``
the semantic logits, ``H × W`` the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.models.semantic.semantic_model import upsample
from labkit.models.upsnet.panoptic_head import Windows
from labkit.structures import VOID, Panoptic, Segment

STRIDE = 4
"""Pixels per cell of the semantic logits."""

STRIP = 32
"""Rows that are looked at together: few enough for the logits of a strip to stay in the cache."""

UNDECIDED = -1
"""Pixels of the unknown class."""


@dataclass(frozen=True)
class FusionConfig:
    """Numbers of the fusion.

    Attributes:
        score: objects at or below it take no part.
        nms: IoU above which the lower-scored one of two objects goes, whatever their classes.
        detections: at most so many; more where scores are equal.
        prune: whether objects that repeat others are dropped, see ``upsnet_head.prune``.
        overlap: of ``prune``.
        unknown: whether the unknown class competes.
        majority: a region that the semantic branch takes for one stuff class on at least this share
            of its pixels becomes that stuff.
        stuff_area: stuff classes with fewer pixels are left out.
    """

    score: float = 0.6
    nms: float = 0.5
    detections: int = 100
    prune: bool = True
    overlap: float = 0.3
    unknown: bool = True
    majority: float = 0.5
    stuff_area: int = 4096


@dataclass
class Fused:
    """Both answers for an image's pixels.

    Attributes:
        winners: ``(H, W)`` int64: a stuff label, ``C + i`` for object i, or UNDECIDED.
        semantic: ``(H, W)`` int64, the label of the largest semantic logit.
    """

    winners: Tensor
    semantic: Tensor


def enlarged(scores: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A window of the logits ``(c, h, w)`` enlarged four times: ``(c, rows, columns)``.

    It is what the same window of the whole enlarged map would be: a cell around it is taken along,
    so that interpolation has its neighbours.
    """
    height, width = scores.shape[1:]
    first_row, first_column = max(top // STRIDE - 1, 0), max(left // STRIDE - 1, 0)
    last_row = min(-(-bottom // STRIDE) + 1, height)
    last_column = min(-(-right // STRIDE) + 1, width)
    part = scores[None, :, first_row:last_row, first_column:last_column]
    large = upsample(part, (part.shape[2] * STRIDE, part.shape[3] * STRIDE))[0]
    top, bottom = top - first_row * STRIDE, bottom - first_row * STRIDE
    left, right = left - first_column * STRIDE, right - first_column * STRIDE
    return large[:, top:bottom, left:right]


@torch.no_grad()  # an argmax has no gradient
def fuse(
    scores: Tensor,
    things: int,
    labels: Tensor,
    masks: list[Tensor],
    windows: Windows,
    size: tuple[int, int],
    unknown: bool = True,
) -> Fused:
    """Who wins each pixel.

    The winners are the argmax of ``panoptic_logits`` of the enlarged logits; of equal ones the
    first wins: stuff before objects before unknown. Without objects, ``C`` is the one that is
    nowhere.

    Args:
        scores: ``(C, h, w)`` semantic logits at one quarter; padding may reach beyond ``size``.
        things: T.
        labels: ``(n,)`` of the objects.
        masks: their logits in ``windows.mask``, of
        :func:`labkit.models.upsnet.panoptic_head.resized_masks`. windows: at full resolution.
        size: (H, W).
        unknown: with the unknown class.
    """
    wanted, which = labels.unique(return_inverse=True)
    stuff, stuff_label, thing, thing_label, of_class = _reduced(scores, things, wanted, size)
    semantic = torch.where(thing > stuff, thing_label, stuff_label)
    classes, count = len(scores), max(len(labels), 1)  # without objects: one that is nowhere
    best, winners = stuff, stuff_label
    # The semantic part alone, for the unknown class.
    in_boxes = torch.full_like(stuff, -torch.inf)
    # The first object whose box does not contain the pixel: the first of those whose logit is 0.
    first_outside = torch.zeros_like(winners)
    for i, (window, inner) in enumerate(zip(windows.seg, windows.mask, strict=True)):
        top, bottom, left, right = window
        semantic_part = of_class[which[i], top:bottom, left:right]
        logit = semantic_part.clone()
        logit[: inner[1] - top, : inner[3] - left] += masks[i]
        place = (slice(top, bottom), slice(left, right))
        _replace(best[place], winners[place], logit, classes + i)
        in_boxes[place] = torch.maximum(in_boxes[place], semantic_part)
        outside = first_outside[place]
        outside[outside == i] += 1

    zero = first_outside < count  # somewhere outside a box
    first_zero = first_outside + classes
    wins = zero & ((best < 0) | ((best == 0) & (first_zero < winners)))
    best = best.masked_fill(wins, 0.0)
    winners = torch.where(wins, first_zero, winners)
    if unknown:
        in_boxes = torch.where(zero, in_boxes.clamp(min=0), in_boxes)
        winners = winners.masked_fill(thing - in_boxes > best, UNDECIDED)
    return Fused(winners, semantic)


def _replace(best: Tensor, winners: Tensor, logit: Tensor, number: int) -> None:
    """Where ``logit`` is larger it becomes the best, in place."""
    better = logit > best
    winners.masked_fill_(better, number)
    torch.maximum(best, logit, out=best)


def _reduced(
    scores: Tensor, things: int, wanted: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Largest stuff logit and its label, largest thing logit and its label, ``(H, W)`` each.

    And the logits of the ``wanted`` labels, ``(wanted, H, W)``, of the same interpolation: where
    an object has the largest thing logit, unknown must be exactly 0.
    """
    parts = []
    for top in range(0, size[0], STRIP):
        strip = enlarged(scores, top, min(top + STRIP, size[0]), 0, size[1])
        of_stuff, of_things = _max(strip[things:], things), _max(strip[:things], 0)
        parts.append((*of_stuff, *of_things, strip[wanted]))
    stuff, stuff_label, thing, thing_label, of_class = (
        torch.cat(rows, dim=-2) for rows in zip(*parts, strict=True)
    )
    return stuff, stuff_label, thing, thing_label, of_class


def _max(scores: Tensor, first: int) -> tuple[Tensor, Tensor]:
    if len(scores) == 0:  # a data set without stuff, or without things
        nothing = scores.new_full(scores.shape[1:], -torch.inf)
        return nothing, torch.zeros_like(nothing, dtype=torch.int64)
    value, index = scores.max(dim=0)
    return value, index + first


def settle(
    fused: Fused,
    labels: Tensor,
    object_scores: Tensor,
    categories: int,
    things: int,
    majority: float = 0.5,
    stuff_area: int = 4096,
) -> Panoptic:
    """The panoptic map: what the semantic branch takes for stuff is stuff, and not if it is small.

    Where the object that stands for none wins, its region becomes void unless it becomes stuff.

    Args:
        fused: at the output's size.
        labels: ``(n,)`` of the objects.
        object_scores: ``(n,)``.
        categories, things: C and T.
        majority, stuff_area: of :class:`FusionConfig`.

    Returns:
        Objects have the ids 1 to n as far as they have pixels, best score first; then stuff.
    """
    if len(labels) == 0:
        labels, object_scores = labels.new_full((1,), -1), object_scores.new_zeros(1)
    winners, count = fused.winners, len(labels)
    owned = winners >= categories
    number = winners[owned] - categories
    # votes[i, k]: pixels of object i whose largest semantic logit is that of label k.
    votes = torch.bincount(
        number * categories + fused.semantic[owned], minlength=count * categories
    ).reshape(count, categories)
    final = torch.arange(categories + count + 1, device=winners.device)
    final[-1] = UNDECIDED  # stays what it is
    for i, (row, label) in enumerate(zip(votes, labels.tolist(), strict=True)):
        # Of equal numbers stuff comes first.
        preferred = (int(torch.cat([row[things:], row[:things]]).argmax()) + things) % categories
        area = int(row.sum())
        if area and preferred >= things and int(row[preferred]) / area >= majority:
            final[categories + i] = preferred
        elif label < 0:
            final[categories + i] = UNDECIDED
    return _numbered(final[winners], labels, object_scores, categories, things, stuff_area)


def _numbered(
    winners: Tensor,
    labels: Tensor,
    object_scores: Tensor,
    categories: int,
    things: int,
    stuff_area: int,
) -> Panoptic:
    count = len(labels)
    areas = torch.bincount(winners[winners >= 0], minlength=categories + count + 1).tolist()
    ids = torch.full((categories + count + 1,), VOID, dtype=torch.int32, device=winners.device)
    segments: list[Segment] = []
    for i, (label, score) in enumerate(zip(labels.tolist(), object_scores.tolist(), strict=True)):
        if areas[categories + i]:
            segments.append(Segment(len(segments) + 1, label, score))
            ids[categories + i] = len(segments)
    for label in range(things, categories):
        if areas[label] and areas[label] >= stuff_area:
            segments.append(Segment(len(segments) + 1, label))
            ids[label] = len(segments)
    return Panoptic(ids[winners], segments)


def at_size(fused: Fused, size: tuple[int, int], scale: tuple[float, float]) -> Fused:
    """The nearest pixel for each pixel of another size.

    Args:
        fused: ``(H, W)``.
        size: (height, width) of the output.
        scale: pixels of ``fused`` per pixel of the output, along y and x.
    """
    if size == tuple(fused.winners.shape) and scale == (1.0, 1.0):
        return fused
    device = fused.winners.device
    rows, columns = (
        (torch.arange(n, dtype=torch.float64, device=device) * s).long().clamp(max=limit - 1)
        for n, s, limit in zip(size, scale, fused.winners.shape, strict=True)
    )
    return Fused(fused.winners[rows[:, None], columns], fused.semantic[rows[:, None], columns])
