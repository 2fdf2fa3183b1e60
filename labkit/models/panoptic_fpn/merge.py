"""The heuristic merge of detections and a semantic map, which overlap and disagree.

A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 7 and the appendix of "Panoptic
Feature Pyramid Networks", CVPR 2019: like non-maximum suppression, with a threshold for each
decision. UPSNet decides each pixel by an argmax: ``models/upsnet/panoptic_head.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.structures import VOID, Categories, Detections, Panoptic, Segment


def merge(
    detections: Detections,
    semantic: Tensor,
    categories: Categories,
    *,
    score_thresh: float = 0.5,
    overlap_thresh: float = 0.5,
    min_stuff_area: int = 4096,
) -> Panoptic:
    """Paint objects, highest score first, then stuff where nothing was painted.

    Notebook 04, section 4.6.

    Args:
        detections: objects with ``masks (N, H, W)``, in any order. Of equal scores the one that
            comes first is painted first.
        semantic: ``(H, W)`` int64 labels. Pixels labelled as a thing paint nothing: it is not known
            which object they belong to.
        categories: of the labels.
        score_thresh: objects below it are left out.
        overlap_thresh: an object is left out if more than this part of it is painted already;
            otherwise it gets the rest.
        min_stuff_area: stuff on fewer pixels, all regions of a class together, is left out.

    Returns:
        The map; segments have ids from 1 on, objects first, then stuff by label. Pixels that
        nothing covers are VOID.

    Raises:
        LabkitError: the detections have no masks, or masks of another size than the semantic map.
    """
    masks = detections.masks
    if masks is None:
        raise LabkitError("merge: the detections have no masks; a panoptic map needs them")
    if semantic.ndim != 2 or masks.shape[1:] != semantic.shape:
        raise LabkitError(
            f"merge: masks are {tuple(masks.shape[1:])} pixels large, the semantic map"
            f" {tuple(semantic.shape)}; both must be (H, W) of the same image"
        )
    num_classes, stuff = len(categories), categories.stuff
    ids = np.full(semantic.shape, VOID, np.int32)
    free = np.ones(semantic.shape, bool)
    segments: list[Segment] = []
    # A mask is a byte a pixel, and NumPy's operations on bytes are an order of magnitude quicker
    # than painting by index.
    scores = detections.scores.float().numpy(force=True)  # NumPy has no bfloat16
    for i in np.argsort(-scores, kind="stable"):
        if float(scores[i]) < score_thresh:
            break
        mask = masks[int(i)].numpy(force=True)
        area = np.count_nonzero(mask)
        visible = mask & free
        left = np.count_nonzero(visible)
        if area == 0 or (area - left) / area > overlap_thresh or left == 0:
            continue
        segments.append(
            Segment(len(segments) + 1, int(detections.labels[i]), score=float(scores[i]))
        )
        np.copyto(ids, segments[-1].id, where=visible)
        free &= ~visible
    labels = np.where(free, semantic.numpy(force=True), num_classes).clip(0, num_classes)
    areas = np.bincount(labels.ravel(), minlength=num_classes + 1)
    id_of = np.full(num_classes + 1, VOID, np.int32)
    for label in stuff:
        if areas[label] and areas[label] >= min_stuff_area:
            segments.append(Segment(len(segments) + 1, label))
            id_of[label] = segments[-1].id
    ids += id_of[labels]  # VOID is 0, so that what is painted stays
    return Panoptic(torch.from_numpy(ids).to(semantic.device), segments)
