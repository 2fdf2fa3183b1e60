"""UPSNet's panoptic head: one logit per pixel for every stuff class and every object, no weights.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.1,
"Panoptic Segmentation Head", and figure 3. The head as in the paper, for training and for reading;
:mod:`labkit.models.upsnet.panoptic_argmax` computes the argmax of the same logits on large images.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``S = C - T``, ``n``
objects, ``m`` resolution of a mask, ``H × W`` the map of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.models.layers import resize_bilinear

Window = tuple[int, int, int, int]
"""Rows and columns of a map: top, bottom, left, right; bottom and right are excluded."""


@dataclass(frozen=True)
class Windows:
    """The pixels that each object's terms cover, one window per object.

    Attributes:
        seg: of its semantic logits; one pixel more where a box ends late in a pixel.
        mask: of its mask logits.
    """

    seg: list[Window]
    mask: list[Window]


def windows_of(boxes: Tensor, size: tuple[int, int], scale: float = 1.0) -> Windows:
    """The windows of boxes.

    A window begins with the pixel in which the box begins; a box narrower than a pixel may have an
    empty one. The first and the last pixel of a box are scaled, not its edges, as in the published
    models.

    Args:
        boxes: ``(n, 4)`` in pixels of the image.
        size: (H, W) of the map.
        scale: cells of the map per pixel.
    """
    limit = torch.tensor([size[1], size[0]], device=boxes.device)
    first = (boxes[:, :2] * scale).long()
    last = (boxes[:, 2:] - 1) * scale
    mask_end = last.long() + 1
    seg_end = torch.maximum(last.round().long() + 1, mask_end)  # halves to the even number

    def listed(end: Tensor) -> list[Window]:
        rows = torch.cat([first, torch.minimum(end, limit)], dim=1).tolist()
        return [(top, bottom, left, right) for left, top, right, bottom in rows]

    return Windows(listed(seg_end), listed(mask_end))


def resized_masks(masks: Tensor, windows: list[Window]) -> list[Tensor]:
    """Resize the logits ``(m, m)`` of each mask to its window ``(h, w)``."""
    resized = []
    for mask, (top, bottom, left, right) in zip(masks, windows, strict=True):
        shape = (max(bottom - top, 1), max(right - left, 1))
        large = resize_bilinear(mask[None, None], shape)[0, 0]
        resized.append(large[: bottom - top, : right - left])
    return resized


def prune(
    masks: list[Tensor],
    windows: list[Window],
    labels: Tensor,
    size: tuple[int, int],
    overlap: float = 0.3,
) -> list[int]:
    """Mask pruning: drop objects that repeat higher-scored ones of their class.

    Notebook 05, section 5.7.

    Args:
        masks: logits ``(h, w)`` in each window, highest score first; a pixel belongs to the mask
            where its logit is positive.
        windows: of the masks.
        labels: ``(n,)``.
        size: (H, W).
        overlap: an object is dropped if more than this fraction of its mask belongs to objects that
            were kept before.

    Returns:
        Indices of the objects kept, in order; objects with an empty mask are dropped.
    """
    taken: dict[int, Tensor] = {}  # by class: (H, W) bool
    kept = []
    for i, (mask, (top, bottom, left, right)) in enumerate(zip(masks, windows, strict=True)):
        inside = mask > 0
        area = int(inside.sum())
        if area == 0:
            continue
        label = int(labels[i])
        if label not in taken:
            taken[label] = torch.zeros(size, dtype=torch.bool, device=mask.device)
        before = taken[label][top:bottom, left:right]
        if int((before & inside).sum()) / area > overlap:
            continue
        before |= inside
        kept.append(i)
    return kept


def thing_term(sem_seg_logits: Tensor, labels: Tensor, windows: list[Window]) -> Tensor:
    """The paper's X_mask: the semantic logits of each object's class in its box, 0 outside.

    Args:
        sem_seg_logits: ``(C, H, W)``.
        labels: ``(n,)``.
        windows: ``Windows.seg``.

    Returns:
        ``(n, H, W)``.
    """
    terms = []
    for label, (top, bottom, left, right) in zip(labels.tolist(), windows, strict=True):
        inside = sem_seg_logits[label, top:bottom, left:right]
        terms.append(_placed(inside, (top, bottom, left, right), sem_seg_logits))
    return torch.stack(terms) if terms else sem_seg_logits[:0]


def mask_term(masks: list[Tensor], windows: list[Window], sem_seg_logits: Tensor) -> Tensor:
    """The paper's Y_mask: the mask logits of each object in its box, 0 outside.

    Args:
        masks: of :func:`resized_masks`.
        windows: ``Windows.mask``.
        sem_seg_logits: ``(C, H, W)``, for the size.

    Returns:
        ``(n, H, W)``.
    """
    terms = [
        _placed(mask, window, sem_seg_logits) for mask, window in zip(masks, windows, strict=True)
    ]
    return torch.stack(terms) if terms else sem_seg_logits[:0]


def unknown_term(sem_seg_logits: Tensor, num_things: int, in_boxes: Tensor) -> Tensor:
    """The logit of the unknown class: thing logits that no object's box explains.

    Args:
        sem_seg_logits: ``(C, H, W)``.
        num_things: T.
        in_boxes: ``(n, H, W)`` of :func:`thing_term`; masks are not used.

    Returns:
        ``(H, W)``.
    """
    any_thing = sem_seg_logits[:num_things].amax(dim=0)
    return any_thing - in_boxes.amax(dim=0) if len(in_boxes) else any_thing


def panoptic_logits(
    sem_seg_logits: Tensor,
    num_things: int,
    labels: Tensor,
    masks: Tensor,
    windows: Windows,
    unknown: bool = True,
) -> Tensor:
    """Panoptic logits: stuff, then objects, then unknown.

    Notebook 05, section 5.3.

    Without objects there is one logit of 0 in their place, so that pixels whose other logits are
    negative are assigned as well.

    Args:
        sem_seg_logits: ``(C, H, W)``.
        num_things: T, at least one if ``unknown``.
        labels: ``(n,)`` of the objects.
        masks: ``(n, m, m)`` their mask logits.
        windows: of :func:`windows_of`.
        unknown: with the unknown class.

    Returns:
        ``(S + max(n, 1) + 1, H, W)``, or without unknown one less.
    """
    in_boxes = thing_term(sem_seg_logits, labels, windows.seg)  # (n, H, W)
    in_masks = mask_term(resized_masks(masks, windows.mask), windows.mask, sem_seg_logits)
    objects = in_boxes + in_masks if len(labels) else torch.zeros_like(sem_seg_logits[:1])
    parts = [sem_seg_logits[num_things:], objects]
    if unknown:
        parts.append(unknown_term(sem_seg_logits, num_things, in_boxes)[None])
    return torch.cat(parts)


def _placed(value: Tensor, window: Window, like: Tensor) -> Tensor:
    """A map ``(H, W)`` of zeros with ``value`` in the window."""
    top, bottom, left, right = window
    height, width = like.shape[1:]
    return F.pad(value, (left, width - right, top, height - bottom))
