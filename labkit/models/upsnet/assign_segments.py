"""Segments from UPSNet's winners: regions of objects that are stuff, and small stuff.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``n`` objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.models.upsnet.panoptic_argmax import UNKNOWN, PixelLabels
from labkit.structures import VOID, Panoptic, Segment


def assign_segments(
    pixels: PixelLabels,
    labels: Tensor,
    object_scores: Tensor,
    num_classes: int,
    num_things: int,
    stuff_majority: float = 0.5,
    min_stuff_area: int = 4096,
) -> Panoptic:
    """The panoptic map: regions mostly labelled as stuff become stuff; small stuff is left out.

    Notebook 05, section 5.6.

    Where the logit of 0 wins without objects, the region becomes void unless it becomes stuff.

    Args:
        pixels: at the image's size.
        labels: ``(n,)`` of the objects.
        object_scores: ``(n,)``.
        num_classes, num_things: C and T.
        stuff_majority, min_stuff_area: of ``PanopticConfig``.

    Returns:
        Objects have the ids 1 to n as far as they have pixels, best score first; then stuff.
    """
    if len(labels) == 0:
        labels, object_scores = labels.new_full((1,), -1), object_scores.new_zeros(1)
    winners = regions_to_stuff(pixels, labels, num_classes, num_things, stuff_majority)
    return number_segments(winners, labels, object_scores, num_classes, num_things, min_stuff_area)


def regions_to_stuff(
    pixels: PixelLabels, labels: Tensor, num_classes: int, num_things: int, stuff_majority: float
) -> Tensor:
    """The winners ``(H, W)``, but for the objects' regions that the semantic branch calls stuff.

    The region of an object without a label, which is the logit of 0, becomes stuff or unknown.
    """
    winners, count = pixels.winners, len(labels)
    owned = winners >= num_classes
    objects = winners[owned] - num_classes
    # votes[i, k]: pixels of object i whose largest semantic logit is that of label k.
    votes = torch.bincount(
        objects * num_classes + pixels.semantic[owned], minlength=count * num_classes
    ).reshape(count, num_classes)
    final = torch.arange(num_classes + count + 1, device=winners.device)  # by winner
    final[UNKNOWN] = UNKNOWN  # the last entry
    for i, (row, label) in enumerate(zip(votes, labels.tolist(), strict=True)):
        # Of equal numbers stuff comes first.
        stuff_first = torch.cat([row[num_things:], row[:num_things]])
        preferred = (int(stuff_first.argmax()) + num_things) % num_classes
        area = int(row.sum())
        if area and preferred >= num_things and int(row[preferred]) / area >= stuff_majority:
            final[num_classes + i] = preferred
        elif label < 0:
            final[num_classes + i] = UNKNOWN
    return final[winners]


def number_segments(
    winners: Tensor,
    labels: Tensor,
    object_scores: Tensor,
    num_classes: int,
    num_things: int,
    min_stuff_area: int,
) -> Panoptic:
    """A segment for each object and stuff label with pixels among the winners ``(H, W)``."""
    count = len(labels)
    areas = torch.bincount(winners[winners >= 0], minlength=num_classes + count + 1).tolist()
    ids = torch.full((num_classes + count + 1,), VOID, dtype=torch.int32, device=winners.device)
    segments: list[Segment] = []
    for i, (label, score) in enumerate(zip(labels.tolist(), object_scores.tolist(), strict=True)):
        if areas[num_classes + i]:
            segments.append(Segment(len(segments) + 1, label, score))
            ids[num_classes + i] = len(segments)
    for label in range(num_things, num_classes):
        if areas[label] and areas[label] >= min_stuff_area:
            segments.append(Segment(len(segments) + 1, label))
            ids[label] = len(segments)
    return Panoptic(ids[winners], segments)
