"""Matching: which box is responsible for which object, and which boxes a loss samples.

Letters in shapes: ``M`` objects, ``N`` boxes (anchors or proposals).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE, POSITIVE, IGNORED = 0, 1, -1


def match_boxes(
    iou: Tensor, bg_iou_thresh: float, fg_iou_thresh: float, allow_low_quality: bool
) -> tuple[Tensor, Tensor]:
    """Match every box to the object that it overlaps most, and label it.

    S. Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    NIPS 2015, section 3.1. Notebook 03, section 3.4.

    Args:
        iou: ``(M, N)``; M may be 0.
        bg_iou_thresh, fg_iou_thresh: below the first a box is background, from the second on it is
            foreground; between them it takes no part.
        allow_low_quality: also the boxes that overlap an object more than all others do are
            foreground, so that no object is left without (S. Ren et al., "Faster R-CNN", section
            3.1.2). Such a box still keeps the object that it overlaps most itself.

    Returns:
        ``matched_idxs`` ``(N,)`` int64, 0 where there are no objects; ``match_labels`` ``(N,)``
        int8: POSITIVE, NEGATIVE or IGNORED.
    """
    if iou.shape[0] == 0:
        zeros = iou.new_zeros(iou.shape[1], dtype=torch.int64)
        return zeros, zeros.to(torch.int8)
    best_iou, matched_idxs = iou.max(dim=0)
    match_labels = torch.full_like(matched_idxs, IGNORED, dtype=torch.int8)
    match_labels[best_iou < bg_iou_thresh] = NEGATIVE
    match_labels[best_iou >= fg_iou_thresh] = POSITIVE
    if allow_low_quality:
        best_of_object = iou.max(dim=1, keepdim=True).values
        match_labels[(iou == best_of_object).any(dim=0)] = POSITIVE
    return matched_idxs, match_labels


def sample_boxes(
    match_labels: Tensor, batch_size: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Sample boxes for a loss: at most a fraction positives, the rest negatives.

    S. Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    NIPS 2015, section 3.1. Notebook 03, section 3.4.

    Negatives outnumber positives by thousands; without sampling they would decide the loss alone.

    Args:
        match_labels: ``(N,)`` of :func:`match_boxes`.
        batch_size: boxes to sample; fewer where there are not enough.
        positive_fraction: of ``batch_size``.

    Returns:
        Indices of the sampled positives and negatives, int64. Draws from torch's generator,
        positives first.
    """
    positive = (match_labels == POSITIVE).nonzero()[:, 0]
    negative = (match_labels == NEGATIVE).nonzero()[:, 0]
    num_positive = min(len(positive), int(batch_size * positive_fraction))
    num_negative = min(len(negative), batch_size - num_positive)
    chosen = torch.randperm(len(positive), device=match_labels.device)[:num_positive]
    rest = torch.randperm(len(negative), device=match_labels.device)[:num_negative]
    return positive[chosen], negative[rest]
