"""UPSNet: objects for the panoptic map, and its argmax of stuff, objects and "unknown"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from labkit.deploy.boxes import clip, nms
from labkit.deploy.images import interpolate, paste_by_resizing, sample
from labkit.deploy.rcnn import detect, paste_detections, predict_masks, score_proposals
from labkit.deploy.result import VOID, Array, Result, Run, Size, Sizes

STRIP = 32
UNKNOWN = -1
Window = tuple[slice, slice]
"""Rows and columns of a map."""


class Object(NamedTuple):
    """An object that may enter the panoptic map, in pixels of the network's input.

    Its semantic logits cover ``seg_window``; ``mask`` has its mask logits in ``mask_window``.
    """

    label: int
    score: float
    seg_window: Window
    mask_window: Window
    mask: Array


def predict(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """Detections as of Mask R-CNN, and both maps."""
    maps, roi, options = run("features", image=batch), config["roi_heads"], config["panoptic"]
    scored = score_proposals(run, maps, sizes, config)
    detections, selected = detect(*scored, roi), select(*scored, options)
    masks = predict_masks(run, maps, detections)["masks"]
    result = paste_upsnet(detections, masks, sizes, roi["plus_one"])
    mask_logits = predict_masks(run, maps, selected)["mask_logits"]
    objects = objects_of(selected, mask_logits, sizes.input)
    if options["prune"]:
        objects = prune(objects, sizes.input, options["overlap_thresh"])
    logits = maps["sem_seg_logits"][0]
    winners, semantic = panoptic_argmax(
        logits, objects, num_things, sizes.input, options["unknown"]
    )
    rows, columns = (
        (np.arange(n) * s).astype(np.int64).clip(0, limit - 1)
        for n, s, limit in zip(sizes.image, sizes.scale, sizes.input, strict=True)
    )
    winners, semantic = winners[rows[:, None], columns], semantic[rows[:, None], columns]
    result.semantic = semantic
    assign_segments(result, winners, objects, len(logits), num_things, options)
    return result


def select(boxes: Array, scores: Array, labels: Array, config: dict[str, Any]) -> Result:
    """The objects that may enter the panoptic map: NMS whatever the class."""
    keep = nms(boxes, scores, np.zeros_like(labels), config["nms_thresh"])
    limit = config["max_detections"]
    if len(keep) > limit:
        keep = keep[scores[keep] >= scores[keep[limit - 1]]]
    keep = keep[scores[keep] > np.float32(config["score_thresh"])]
    return Result(boxes, scores, labels).take(keep)


def paste_upsnet(result: Result, masks: Array, sizes: Sizes, plus_one: bool) -> Result:
    """Detections in pixels of the image; of boxes from pixel to pixel, pixels are scaled."""
    if not plus_one:
        return paste_detections(result, masks, sizes)
    last_pixel = np.array([0, 0, 1, 1], np.float32)
    x_and_y = np.array(sizes.scale[::-1] * 2, np.float32)
    scaled = (result.boxes - last_pixel) / x_and_y
    boxes = clip(scaled + last_pixel, sizes.image, plus_one=True)
    pasted = paste_by_resizing(masks, boxes - last_pixel, sizes.image)
    return replace(result, boxes=boxes, masks=pasted)


def objects_of(selected: Result, mask_logits: Array, size: Size) -> list[Object]:
    """Selected boxes with their mask logits ``(n, m, m)`` resized to pixels of the input."""
    objects = []
    for box, score, label, logits in zip(
        selected.boxes, selected.scores, selected.labels, mask_logits, strict=True
    ):
        first, last = box[:2].astype(np.int64), box[2:] - 1
        mask_end = last.astype(np.int64) + 1
        seg_end = np.maximum(np.round(last).astype(np.int64) + 1, mask_end)
        seg_window, mask_window = window(first, seg_end, size), window(first, mask_end, size)
        height, width = (s.stop - s.start for s in mask_window)
        mask = interpolate(logits, (max(height, 1), max(width, 1)))[:height, :width]
        objects.append(Object(int(label), float(score), seg_window, mask_window, mask))
    return objects


def window(first: Array, end: Array, size: Size) -> Window:
    """From the first pixel (x, y) to before the end, cut at the map's border."""
    (x1, y1), (x2, y2) = first, np.minimum(end, size[::-1])
    return slice(y1, max(y2, y1)), slice(x1, max(x2, x1))


def prune(objects: list[Object], size: Size, limit: float) -> list[Object]:
    """The objects whose masks do not repeat those of better objects of their class."""
    taken: dict[int, Array] = {}
    kept = []
    for one in objects:
        inside = one.mask > 0
        before = taken.setdefault(one.label, np.zeros(size, bool))[one.mask_window]
        if inside.any() and (before & inside).sum() / inside.sum() <= limit:
            before |= inside
            kept.append(one)
    # If no mask has a pixel, the best object stays, without one.
    return kept or [one._replace(mask=np.zeros_like(one.mask)) for one in objects[:1]]


def panoptic_argmax(
    logits: Array, objects: list[Object], num_things: int, size: Size, unknown: bool
) -> tuple[Array, Array]:
    """``(H, W)`` stuff label, ``C + i`` for object i, or UNKNOWN; and the semantic label.

    Of equal logits the first wins. Without objects, ``C`` is the logit of 0.
    """
    wide = sample(logits, (np.arange(size[1], dtype=np.float32) + 0.5) / 4 - 0.5, 2)
    stuff, thing = np.full(size, -np.inf, np.float32), np.full(size, -np.inf, np.float32)
    stuff_label, thing_label = np.zeros(size, np.int64), np.zeros(size, np.int64)
    of_label = {one.label: np.empty(size, np.float32) for one in objects}
    for top in range(0, size[0], STRIP):  # all logits of the whole map would not fit in memory
        rows = np.arange(top, min(top + STRIP, size[0]), dtype=np.float32)
        strip = sample(wide, (rows + 0.5) / 4 - 0.5, 1)
        at = slice(top, top + len(rows))
        for part, best, label, first in (
            (strip[num_things:], stuff, stuff_label, num_things),
            (strip[:num_things], thing, thing_label, 0),
        ):
            if len(part):
                best[at], label[at] = part.max(axis=0), part.argmax(axis=0) + first
        for name, plane in of_label.items():
            plane[at] = strip[name]
    best, winners = stuff.copy(), stuff_label.copy()
    in_boxes = np.full(size, -np.inf if objects else 0, np.float32)
    for i, one in enumerate(objects):
        term = np.zeros(size, np.float32)  # the logit of an object is 0 outside of its box
        term[one.seg_window] = of_label[one.label][one.seg_window]
        np.maximum(in_boxes, term, out=in_boxes)
        term[one.mask_window] += one.mask
        better = term > best
        winners[better] = len(logits) + i
        np.maximum(best, term, out=best)
    if not objects:
        winners[best < 0] = len(logits)
        best = np.maximum(best, 0)
    if unknown:
        winners[thing - in_boxes > best] = UNKNOWN
    return winners, np.where(thing > stuff, thing_label, stuff_label)


def assign_segments(
    result: Result,
    winners: Array,
    objects: list[Object],
    num_classes: int,
    num_things: int,
    config: dict[str, Any],
) -> None:
    """Add the panoptic map: regions mostly labelled as stuff become stuff; no small stuff."""
    result.panoptic = np.full(winners.shape, VOID, np.int32)
    for i in range(max(len(objects), 1)):
        region = winners == num_classes + i
        votes = np.bincount(result.semantic[region], minlength=num_classes)
        # Of equal numbers stuff comes first.
        preferred = (np.roll(votes, -num_things).argmax() + num_things) % num_classes
        share = votes[preferred] / max(votes.sum(), 1)
        if region.any() and preferred >= num_things and share >= config["stuff_majority"]:
            winners[region] = preferred
        elif region.any() and objects:
            result.panoptic[region] = result.add_segment(objects[i].label, objects[i].score)
    for label in range(num_things, num_classes):
        region = winners == label
        if region.any() and region.sum() >= config["min_stuff_area"]:
            result.panoptic[region] = result.add_segment(label)
