"""Panoptic maps from DETR's queries: the largest mask logit wins each pixel.

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
from torchvision.ops import box_convert

from labkit.models.panoptic_fpn.merge import merge
from labkit.ops.boxes import clip_boxes
from labkit.structures import IGNORE, VOID, Categories, Detections, Panoptic, Segment


@dataclass(frozen=True)
class Queries:
    """The queries of an image that predict a category, in their order.

    Attributes:
        idxs: ``(N,)`` indices of the network's queries.
        labels, scores: ``(N,)``.
        boxes: ``(N, 4)`` XYXY as fractions of the image's sides.
    """

    idxs: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor

    def detections(self, which: Tensor, size: tuple[int, int], masks: Tensor | None) -> Detections:
        """Some of them as detections, highest score first.

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


def select_queries(
    logits: Tensor, boxes: Tensor, label_of: Tensor, above_no_object: bool
) -> Queries:
    """Select the queries of one image that predict a category.

    Args:
        logits: ``(Q, K)``, the last output is "no object".
        boxes: ``(Q, 4)`` centre x, centre y, width, height.
        label_of: ``(K - 1,)``, the label of each output, -1 for none.
        above_no_object: only those whose category is likelier than "no object".
    """
    probability = logits.softmax(dim=-1)
    scores, outputs = probability[:, :-1].max(dim=-1)
    labels = label_of[outputs]
    keep = labels >= 0
    if above_no_object:
        keep &= scores > probability[:, -1]
    idxs = keep.nonzero()[:, 0]
    return Queries(idxs, labels[idxs], scores[idxs], box_convert(boxes[idxs], "cxcywh", "xyxy"))


def panoptic_map(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    num_things: int,
    size: tuple[int, int],
    min_segment_area: int = 4,
) -> Panoptic:
    """Assign every pixel to the query with the largest mask logit.

    Notebook 08, section 8.11.

    Masks of one stuff class are one region. Segments that come out too small are dropped and the
    pixels decided again, now without joining: a stuff mask that was joined to another one has no
    pixels left and is dropped so.

    Args:
        masks: ``(N, H, W)`` logits.
        labels, scores: ``(N,)``, in the order of the queries: it decides which of two masks of a
            stuff class gives the region its place.
        num_things: labels from there on are stuff.
        size: (H', W').
        min_segment_area: pixels of the output that a segment must exceed.

    Returns:
        A segment for every pixel, with ids from 1 on; void where there is no query.
    """
    first_of_class = torch.arange(len(labels), device=labels.device)
    for i, label in enumerate(labels.tolist()):
        if label >= num_things:
            first_of_class[i] = int((labels == label).nonzero()[0])
    winners = _winners(masks, size, first_of_class)
    while len(labels):
        areas = torch.bincount(winners.flatten(), minlength=len(labels))
        keep = areas > min_segment_area
        if bool(keep.all()):
            break
        masks, labels, scores = masks[keep], labels[keep], scores[keep]
        winners = _winners(masks, size, None)
    segments = [
        Segment(i, label, score if label < num_things else None)
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


def boxes_map(things: Detections, stuff: Detections, categories: Categories) -> Panoptic:
    """The panoptic map of filled boxes: stuff below things, small stuff above large.

    Notebook 08, section 8.9.

    Args:
        things: detections with their boxes filled as masks ``(n, H', W')``.
        stuff: the same of stuff.
        categories: of the labels.
    """
    assert stuff.masks is not None
    semantic = torch.full(stuff.masks.shape[1:], IGNORE, device=stuff.labels.device)
    for i in stuff.masks.flatten(1).sum(dim=1).argsort(descending=True).tolist():
        semantic[stuff.masks[i]] = stuff.labels[i]
    return merge(things, semantic, categories, score_thresh=0.0, min_stuff_area=1)


def fill_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, H', W')`` bool: the pixels whose centres are in each box.

    Args:
        boxes: ``(N, 4)`` XYXY as fractions of the image's sides.
        size: (H', W').
    """
    y = (torch.arange(size[0], device=boxes.device) + 0.5) / size[0]
    x = (torch.arange(size[1], device=boxes.device) + 0.5) / size[1]
    left, top, right, bottom = boxes.T[:, :, None]  # (N, 1) each
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (N, H'), (N, W')
    return rows[:, :, None] & columns[:, None, :]
