"""From DETR's queries to a panoptic map: the largest mask wins each pixel.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4.

Letters in shapes: ``N`` queries that are kept, ``H × W`` the network's image, ``H' × W'`` the
output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labkit.models.panoptic_fpn.merge import merge
from labkit.ops.boxes import clip_boxes
from labkit.structures import IGNORE, VOID, Categories, Detections, Panoptic, Segment


@dataclass(frozen=True)
class Named:
    """The queries of an image that name a category, in their order.

    Attributes:
        query: ``(N,)``, which of the network's queries.
        labels, scores: ``(N,)``.
        boxes: ``(N, 4)`` XYXY as shares of the image's sides.
    """

    query: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor

    def detections(self, which: Tensor, size: tuple[int, int], masks: Tensor | None) -> Detections:
        """Some of them as objects, best first.

        Args:
            which: ``(N,)`` bool.
            size: (H', W').
            masks: ``(N, H', W')`` bool, if there are any.
        """
        order = self.scores.argsort(descending=True, stable=True)
        order = order[which[order]]
        sides = self.boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = clip_boxes(self.boxes[order] * sides, size)
        chosen = None if masks is None else masks[order]
        return Detections(boxes, self.scores[order], self.labels[order], chosen)


def panoptic_map(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    things: int,
    size: tuple[int, int],
    smallest: int = 4,
) -> Panoptic:
    """Every pixel to the query with the largest mask logit.

    Masks of one stuff class are one region. Segments that come out too small are dropped and the
    pixels decided again, now without joining: a stuff mask that was joined to another one has no
    pixels left and is dropped so.

    Args:
        masks: ``(N, H, W)`` logits.
        labels, scores: ``(N,)``, in the order of the queries: it decides which of two masks of a
            stuff class gives the region its place.
        things: number of things; labels from there on are stuff.
        size: (H', W').
        smallest: pixels of the output that a segment must exceed.

    Returns:
        A segment for every pixel, with ids from 1 on; void where there is no query.
    """
    first_of_class = torch.arange(len(labels), device=labels.device)
    for i, label in enumerate(labels.tolist()):
        if label >= things:
            first_of_class[i] = int((labels == label).nonzero()[0])
    winners = _winners(masks, size, first_of_class)
    while len(labels):
        areas = torch.bincount(winners.flatten(), minlength=len(labels))
        keep = areas > smallest
        if bool(keep.all()):
            break
        masks, labels, scores = masks[keep], labels[keep], scores[keep]
        winners = _winners(masks, size, None)
    segments = [
        Segment(i, label, score if label < things else None)
        for i, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True), 1)
    ]
    ids = winners + 1 if segments else torch.full_like(winners, VOID)
    return Panoptic(ids.int(), segments)


def _winners(masks: Tensor, size: tuple[int, int], instead: Tensor | None) -> Tensor:
    """``(H', W')`` the number of the largest mask, or of the one that stands for it."""
    if len(masks) == 0:
        return torch.zeros(size, dtype=torch.int64, device=masks.device)
    winners = masks.argmax(dim=0)  # (H, W)
    if instead is not None:
        winners = instead[winners]
    # Pillow's nearest pixel is the original's; where two are equally near, rounding decides.
    picture = Image.fromarray(winners.to(torch.int32).numpy(force=True))
    resized = np.array(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))
    return torch.from_numpy(resized).long().to(masks.device)


def boxes_map(found: Detections, stuff: Detections, categories: Categories) -> Panoptic:
    """The best map that boxes allow: filled, stuff below things, small stuff above large.

    Args:
        found: things with their boxes filled as masks ``(n, H', W')``.
        stuff: the same of stuff.
        categories: of the labels.
    """
    assert stuff.masks is not None
    semantic = torch.full(stuff.masks.shape[1:], IGNORE, device=stuff.labels.device)
    for i in stuff.masks.flatten(1).sum(dim=1).argsort(descending=True).tolist():
        semantic[stuff.masks[i]] = stuff.labels[i]
    return merge(found, semantic, categories, score=0.0, stuff_area=1)


def filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, H', W')`` bool: pixels whose middle is in each box ``(N, 4)``, shares of the sides."""
    y = (torch.arange(size[0], device=boxes.device) + 0.5) / size[0]
    x = (torch.arange(size[1], device=boxes.device) + 0.5) / size[1]
    left, top, right, bottom = boxes.T[:, :, None]  # (N, 1) each
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (N, H'), (N, W')
    return rows[:, :, None] & columns[:, None, :]
