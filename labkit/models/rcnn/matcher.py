"""Which box is responsible for which object, and which boxes take part in a loss.

Letters in shapes: ``M`` objects, ``N`` boxes (anchors or proposals).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE, POSITIVE, BETWEEN = 0, 1, -1


def match(iou: Tensor, low: float, high: float, keep_best: bool) -> tuple[Tensor, Tensor]:
    """Give every box the object that it overlaps most, and say whether it counts as that object.

    Args:
        iou: ``(M, N)``; M may be 0.
        low, high: below ``low`` a box is background, from ``high`` on it is its object; between
            them it takes no part.
        keep_best: also the boxes that overlap an object more than all others do are positive, so
            that no object is left without (S. Ren et al., "Faster R-CNN", section 3.1.2). Such a
            box still keeps the object that it overlaps most itself.

    Returns:
        ``(N,)`` int64 objects (0 where there are none), ``(N,)`` int8 POSITIVE, NEGATIVE, BETWEEN.
    """
    if iou.shape[0] == 0:
        zeros = iou.new_zeros(iou.shape[1], dtype=torch.int64)
        return zeros, zeros.to(torch.int8)
    best, objects = iou.max(dim=0)
    kinds = torch.full_like(objects, BETWEEN, dtype=torch.int8)
    kinds[best < low] = NEGATIVE
    kinds[best >= high] = POSITIVE
    if keep_best:
        of_object = iou.max(dim=1, keepdim=True).values
        kinds[(iou == of_object).any(dim=0)] = POSITIVE
    return objects, kinds


def sample(kinds: Tensor, number: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw boxes for a loss: at most a fraction positives, the rest negatives.

    Negatives outnumber positives by thousands; without drawing they would decide the loss alone.

    Args:
        kinds: ``(N,)`` of :func:`match`.
        number: boxes to draw; fewer where there are not enough.
        positive_fraction: of ``number``.

    Returns:
        Indices of the positives and of the negatives drawn, int64. Draws from torch's generator,
        positives first.
    """
    positive = (kinds == POSITIVE).nonzero()[:, 0]
    negative = (kinds == NEGATIVE).nonzero()[:, 0]
    positives = min(len(positive), int(number * positive_fraction))
    negatives = min(len(negative), number - positives)
    drawn = torch.randperm(len(positive), device=kinds.device)[:positives]
    rest = torch.randperm(len(negative), device=kinds.device)[:negatives]
    return positive[drawn], negative[rest]
