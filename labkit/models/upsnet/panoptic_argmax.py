"""The argmax of UPSNet's panoptic logits, at full resolution and with little memory.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3. The logits
are those of :mod:`labkit.models.upsnet.panoptic_head`. But 153 logits for each of a million pixels
take 600 MB, so they are never all in memory: the semantic logits are reduced to their maxima strip
by strip, and an object is considered only inside its box, since its logit is 0 outside.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``n`` objects, ``h × w``
the semantic logits, ``H × W`` the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import Size
from labkit.models.upsnet.panoptic_head import Window, Windows

STRIDE = 4
"""Pixels per cell of the semantic logits."""

STRIP = 32
"""Rows of a strip: few enough for its logits to stay in the cache."""

UNKNOWN = -1
"""Pixels of the unknown class."""


@dataclass
class PixelLabels:
    """The panoptic and the semantic argmax of an image's pixels.

    Attributes:
        winners: ``(H, W)`` int64: a stuff label, ``C + i`` for object i, or UNKNOWN.
        semantic: ``(H, W)`` int64, the label of the largest semantic logit.
    """

    winners: Tensor
    semantic: Tensor


@torch.no_grad()  # an argmax has no gradient
def panoptic_argmax(
    sem_seg_logits: Tensor,
    num_things: int,
    labels: Tensor,
    masks: list[Tensor],
    windows: Windows,
    size: Size,
    unknown: bool = True,
) -> PixelLabels:
    """The argmax of ``panoptic_logits`` of the upsampled logits.

    Notebook 05, section 5.3.

    Three pixels, one stuff class, one object, whose box contains the second pixel alone::

        stuff logit                            2     -1     -1
        thing logit                            1      3      1.5
        object: thing + mask logit, 0 outside  0      3 + 1  0
        unknown: thing - thing in the box      1 - 0  3 - 3  1.5 - 0
        winner                                 stuff  object unknown

    Without the unknown class the third pixel is the object's: its 0 is above the stuff's -1.

    Of equal logits the first wins: stuff before objects before unknown. Without objects, ``C`` is
    the logit of 0.

    Args:
        sem_seg_logits: ``(C, h, w)`` at stride 4; padding may reach beyond ``size``.
        num_things: T.
        labels: ``(n,)`` of the objects.
        masks: their logits in ``windows.mask``, of
            :func:`labkit.models.upsnet.panoptic_head.resized_masks`.
        windows: at full resolution.
        size: (H, W).
        unknown: with the unknown class.
    """
    maxima = semantic_maxima(sem_seg_logits, num_things, labels, size)
    semantic = torch.where(maxima.thing > maxima.stuff, maxima.thing_label, maxima.stuff_label)
    thing_terms = [
        maxima.of_label[label][top:bottom, left:right]
        for label, (top, bottom, left, right) in zip(labels.tolist(), windows.seg, strict=True)
    ]
    best, winners = maxima.stuff, maxima.stuff_label  # (H, W), changed in place
    first_object = len(sem_seg_logits)
    update_inside_boxes(best, winners, first_object, thing_terms, masks, windows)
    outside = first_outside(windows.seg, best)
    is_outside = outside < max(len(labels), 1)  # without objects: the logit of 0
    update_outside_boxes(best, winners, first_object + outside, is_outside)
    if unknown:
        in_boxes = largest_thing_term(thing_terms, windows.seg, is_outside, best)
        winners = winners.masked_fill(maxima.thing - in_boxes > best, UNKNOWN)
    return PixelLabels(winners, semantic)


# The semantic logits


@dataclass(frozen=True)
class SemanticMaxima:
    """What is kept of the upsampled semantic logits.

    Attributes:
        stuff, stuff_label: ``(H, W)`` the largest stuff logit and its label.
        thing, thing_label: ``(H, W)`` the largest thing logit and its label.
        of_label: ``(H, W)`` all logits of each label that an object has. They come from the same
            interpolation: where an object has the largest thing logit, unknown is exactly 0.
    """

    stuff: Tensor
    stuff_label: Tensor
    thing: Tensor
    thing_label: Tensor
    of_label: dict[int, Tensor]


def semantic_maxima(
    sem_seg_logits: Tensor, num_things: int, labels: Tensor, size: Size
) -> SemanticMaxima:
    """Upsample the logits ``(C, h, w)`` strip by strip, and keep their maxima."""
    object_labels = labels.unique()
    strips = []
    for top in range(0, size[0], STRIP):
        strip = upsample_window(sem_seg_logits, top, min(top + STRIP, size[0]), 0, size[1])
        stuff, stuff_label = _max(strip[num_things:], num_things)
        thing, thing_label = _max(strip[:num_things], 0)
        strips.append((stuff, stuff_label, thing, thing_label, strip[object_labels]))
    stuff, stuff_label, thing, thing_label, of_labels = (
        torch.cat(rows, dim=-2) for rows in zip(*strips, strict=True)
    )
    of_label = dict(zip(object_labels.tolist(), of_labels, strict=True))
    return SemanticMaxima(stuff, stuff_label, thing, thing_label, of_label)


def upsample_window(logits: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A window of the logits ``(c, h, w)`` enlarged four times: ``(c, rows, columns)``.

    It is what the same window of the whole enlarged map would be: a cell around it is taken along,
    so that interpolation has its neighbours.
    """
    height, width = logits.shape[1:]
    first_row, first_column = max(top // STRIDE - 1, 0), max(left // STRIDE - 1, 0)
    last_row = min(-(-bottom // STRIDE) + 1, height)
    last_column = min(-(-right // STRIDE) + 1, width)
    part = logits[None, :, first_row:last_row, first_column:last_column]
    large_size = (part.shape[2] * STRIDE, part.shape[3] * STRIDE)
    large = resize_bilinear(part, large_size)[0]
    top, bottom = top - first_row * STRIDE, bottom - first_row * STRIDE
    left, right = left - first_column * STRIDE, right - first_column * STRIDE
    return large[:, top:bottom, left:right]


def _max(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
    if len(logits) == 0:  # a data set without stuff, or without things
        nothing = logits.new_full(logits.shape[1:], -torch.inf)
        return nothing, torch.zeros_like(nothing, dtype=torch.int64)
    value, index = logits.max(dim=0)
    return value, index + first


# The objects


def update_inside_boxes(
    best: Tensor,
    winners: Tensor,
    first_object: int,
    thing_terms: list[Tensor],
    masks: list[Tensor],
    windows: Windows,
) -> None:
    """Let every object compete inside its box, in place.

    Args:
        best: ``(H, W)`` largest logit so far.
        winners: ``(H, W)`` whose it is.
        first_object: C, the number of the first object among the winners.
        thing_terms: semantic logits ``(rows, columns)`` of each object in ``windows.seg``.
        masks: mask logits of each object in ``windows.mask``, which begins at the same pixel.
        windows: of the objects.
    """
    for i, (top, bottom, left, right) in enumerate(windows.seg):
        _, mask_bottom, _, mask_right = windows.mask[i]
        logit = thing_terms[i].clone()
        logit[: mask_bottom - top, : mask_right - left] += masks[i]
        best_inside = best[top:bottom, left:right]
        winners[top:bottom, left:right].masked_fill_(logit > best_inside, first_object + i)
        torch.maximum(best_inside, logit, out=best_inside)


def first_outside(windows: list[Window], like: Tensor) -> Tensor:
    """``(H, W)`` the first object whose box does not contain the pixel; n if all do.

    Of all objects whose logit is 0 at the pixel, it is the one that wins.
    """
    outside = torch.zeros_like(like, dtype=torch.int64)
    for i, (top, bottom, left, right) in enumerate(windows):
        inside = outside[top:bottom, left:right]
        inside[inside == i] += 1
    return outside


def update_outside_boxes(
    best: Tensor, winners: Tensor, numbers: Tensor, is_outside: Tensor
) -> None:
    """Let the logit 0 of the objects outside of their boxes compete, in place.

    Args:
        best, winners: of :func:`update_inside_boxes`.
        numbers: ``(H, W)`` the winner if 0 is the largest.
        is_outside: ``(H, W)`` bool, whether an object has a 0 here.
    """
    wins = is_outside & ((best < 0) | ((best == 0) & (numbers < winners)))
    best.masked_fill_(wins, 0.0)
    winners.copy_(torch.where(wins, numbers, winners))


# The unknown class


def largest_thing_term(
    thing_terms: list[Tensor], windows: list[Window], is_outside: Tensor, like: Tensor
) -> Tensor:
    """``(H, W)`` the largest semantic logit that an object's box explains, without masks.

    It is 0 for an object outside of its box.
    """
    largest = torch.full_like(like, -torch.inf)
    for term, (top, bottom, left, right) in zip(thing_terms, windows, strict=True):
        inside = largest[top:bottom, left:right]
        torch.maximum(inside, term, out=inside)
    return torch.where(is_outside, largest.clamp(min=0), largest)
