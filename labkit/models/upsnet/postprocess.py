"""Panoptic maps from UPSNet's two branches, at full resolution and with little memory.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3.
The result is the argmax of the logits of :mod:`labkit.models.upsnet.panoptic_head`. But 153 logits
for each of a million pixels take 600 MB, so they are never all in memory: stuff is reduced strip by
strip, and an object is considered only inside its box, since its logit is 0 outside.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``n`` objects, ``h × w``
the semantic logits, ``H × W`` the network's input, ``H' × W'`` the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.models.preprocess import Preprocessing, Size
from labkit.models.rcnn.mask_head import paste_detections, paste_masks_by_resizing
from labkit.models.upsnet.panoptic_head import Windows, prune, resized_masks, windows_of
from labkit.ops.boxes import clip_boxes
from labkit.structures import VOID, Detections, Panoptic, Segment

STRIDE = 4
"""Pixels per cell of the semantic logits."""

STRIP = 32
"""Rows of a strip: few enough for its logits to stay in the cache."""

UNKNOWN = -1
"""Pixels of the unknown class."""


@dataclass(frozen=True)
class PanopticConfig:
    """Panoptic map configuration.

    Attributes:
        score_thresh: objects at or below it do not enter the map.
        nms_thresh: IoU above which the lower-scored one of two objects is removed, whatever their
            classes.
        max_detections: at most so many objects; more where scores are equal.
        prune: whether objects that repeat others are dropped, see ``panoptic_head.prune``.
        overlap_thresh: of ``prune``.
        unknown: whether the unknown class competes.
        stuff_majority: a region that the semantic branch labels as one stuff class on at least this
            share of its pixels becomes that stuff.
        min_stuff_area: stuff classes with fewer pixels are left out.
    """

    score_thresh: float = 0.6
    nms_thresh: float = 0.5
    max_detections: int = 100
    prune: bool = True
    overlap_thresh: float = 0.3
    unknown: bool = True
    stuff_majority: float = 0.5
    min_stuff_area: int = 4096


def panoptic_maps(
    sem_seg_logits: Tensor,
    detections: Detections,
    mask_logits: Tensor,
    num_things: int,
    input_size: Size,
    image_size: Size,
    scale: tuple[float, float],
    config: PanopticConfig,
) -> tuple[Tensor, Panoptic]:
    """The semantic map ``(H', W')`` and the panoptic map of one image.

    Args:
        sem_seg_logits: ``(C, h, w)``.
        detections: n objects, highest score first, boxes in pixels of the network's input.
        mask_logits: ``(n, m, m)`` of their classes.
        num_things: T.
        input_size: (H, W) of the network's input.
        image_size: (H', W').
        scale: of :func:`input_scale`.
        config: thresholds.
    """
    windows = windows_of(detections.boxes, input_size)
    masks = resized_masks(mask_logits, windows.mask)
    if config.prune and masks:
        kept = prune(masks, windows.mask, detections.labels, input_size, config.overlap_thresh)
        if not kept:  # no mask has a pixel: the best object stays, without one
            kept, masks = [0], [torch.zeros_like(masks[0])]
        else:
            masks = [masks[i] for i in kept]
        detections = detections[torch.tensor(kept, device=detections.labels.device)]
        windows = windows_of(detections.boxes, input_size)
    pixels = panoptic_argmax(
        sem_seg_logits, num_things, detections.labels, masks, windows, input_size, config.unknown
    )
    pixels = resize_nearest(pixels, image_size, scale)
    panoptic = assign_segments(
        pixels,
        detections.labels,
        detections.scores,
        len(sem_seg_logits),
        num_things,
        config.stuff_majority,
        config.min_stuff_area,
    )
    return pixels.semantic, panoptic


def input_scale(
    input_size: Size, image_size: Size, preprocessing: Preprocessing
) -> tuple[float, float]:
    """Pixels of the network's input per pixel of the image, along y and x."""
    if preprocessing.resize == "opencv":
        scale = preprocessing.scale(image_size)
        if input_size == (round(image_size[0] * scale), round(image_size[1] * scale)):
            return scale, scale
    return input_size[0] / image_size[0], input_size[1] / image_size[1]


def paste_upsnet_detections(
    detections: Detections,
    mask_logits: Tensor,
    input_size: Size,
    image_size: Size,
    scale: tuple[float, float],
    plus_one: bool,
) -> Detections:
    """:func:`~labkit.models.rcnn.mask_head.paste_detections`, also for boxes from pixel to pixel.

    Of these the coordinates of pixels are scaled, not of edges.
    """
    if not plus_one:
        return paste_detections(detections, mask_logits, input_size, image_size)
    y, x = scale
    last_pixel = detections.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    scaled = (detections.boxes - last_pixel) / detections.boxes.new_tensor([x, y, x, y])
    boxes = clip_boxes(scaled + last_pixel, image_size, plus_one=True)
    masks = paste_masks_by_resizing(mask_logits.sigmoid(), boxes - last_pixel, image_size)
    return Detections(boxes, detections.scores, detections.labels, masks)


@dataclass
class PixelLabels:
    """The panoptic and the semantic argmax of an image's pixels.

    Attributes:
        winners: ``(H, W)`` int64: a stuff label, ``C + i`` for object i, or UNKNOWN.
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
    large_size = (part.shape[2] * STRIDE, part.shape[3] * STRIDE)
    large = F.interpolate(part, size=large_size, mode="bilinear", align_corners=False)[0]
    top, bottom = top - first_row * STRIDE, bottom - first_row * STRIDE
    left, right = left - first_column * STRIDE, right - first_column * STRIDE
    return large[:, top:bottom, left:right]


@torch.no_grad()  # an argmax has no gradient
def panoptic_argmax(
    sem_seg_logits: Tensor,
    num_things: int,
    labels: Tensor,
    masks: list[Tensor],
    windows: Windows,
    size: tuple[int, int],
    unknown: bool = True,
) -> PixelLabels:
    """The argmax of ``panoptic_logits`` of the upsampled logits.

    Notebook 05, section 5.3.

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
    wanted, which = labels.unique(return_inverse=True)
    stuff, stuff_label, thing, thing_label, of_class = _reduced(
        sem_seg_logits, num_things, wanted, size
    )
    semantic = torch.where(thing > stuff, thing_label, stuff_label)
    classes, count = len(sem_seg_logits), max(len(labels), 1)  # without objects: the logit of 0
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
        winners = winners.masked_fill(thing - in_boxes > best, UNKNOWN)
    return PixelLabels(winners, semantic)


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
        stuff_majority, min_stuff_area: of :class:`PanopticConfig`.

    Returns:
        Objects have the ids 1 to n as far as they have pixels, best score first; then stuff.
    """
    if len(labels) == 0:
        labels, object_scores = labels.new_full((1,), -1), object_scores.new_zeros(1)
    winners, count = pixels.winners, len(labels)
    owned = winners >= num_classes
    number = winners[owned] - num_classes
    # votes[i, k]: pixels of object i whose largest semantic logit is that of label k.
    votes = torch.bincount(
        number * num_classes + pixels.semantic[owned], minlength=count * num_classes
    ).reshape(count, num_classes)
    final = torch.arange(num_classes + count + 1, device=winners.device)
    final[-1] = UNKNOWN  # stays what it is
    for i, (row, label) in enumerate(zip(votes, labels.tolist(), strict=True)):
        # Of equal numbers stuff comes first.
        preferred = (
            int(torch.cat([row[num_things:], row[:num_things]]).argmax()) + num_things
        ) % num_classes
        area = int(row.sum())
        if area and preferred >= num_things and int(row[preferred]) / area >= stuff_majority:
            final[num_classes + i] = preferred
        elif label < 0:
            final[num_classes + i] = UNKNOWN
    return _numbered(final[winners], labels, object_scores, num_classes, num_things, min_stuff_area)


def _numbered(
    winners: Tensor,
    labels: Tensor,
    object_scores: Tensor,
    num_classes: int,
    num_things: int,
    min_stuff_area: int,
) -> Panoptic:
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


def resize_nearest(
    pixels: PixelLabels, size: tuple[int, int], scale: tuple[float, float]
) -> PixelLabels:
    """Resize by taking the nearest pixel.

    Args:
        pixels: ``(H, W)``.
        size: (H', W').
        scale: pixels of the network's input per pixel of the image, along y and x.
    """
    if size == tuple(pixels.winners.shape) and scale == (1.0, 1.0):
        return pixels
    device = pixels.winners.device
    rows, columns = (
        (torch.arange(n, dtype=torch.float64, device=device) * s).long().clamp(max=limit - 1)
        for n, s, limit in zip(size, scale, pixels.winners.shape, strict=True)
    )
    return PixelLabels(
        pixels.winners[rows[:, None], columns], pixels.semantic[rows[:, None], columns]
    )
