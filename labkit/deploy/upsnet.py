"""UPSNet: objects for the panoptic map, and its argmax of stuff, objects and "unknown"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from labkit.deploy.boxes import clip, nms
from labkit.deploy.images import interpolate, paste_by_resizing, sample
from labkit.deploy.rcnn import detect, paste_detections, predict_masks, score_proposals
from labkit.deploy.result import VOID, Array, Result, Run, Size, Sizes

STRIP = 32
UNKNOWN = -1


def predict(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """Detections as of Mask R-CNN, and both maps."""
    maps, roi = run("features", image=batch), config["roi_heads"]
    scored = score_proposals(run, maps, sizes, config)
    detections, objects = detect(*scored, roi), select(*scored, config["panoptic"])
    masks = predict_masks(run, maps, detections)["masks"]
    result = paste_upsnet(detections, masks, sizes, roi["plus_one"])
    logits = maps["sem_seg_logits"][0]
    mask_logits = predict_masks(run, maps, objects)["mask_logits"]
    panoptic = panoptic_maps(objects, mask_logits, logits, num_things, sizes, config["panoptic"])
    return replace(
        panoptic,
        boxes=result.boxes,
        scores=result.scores,
        labels=result.labels,
        masks=result.masks,
    )


def select(boxes: Array, scores: Array, labels: Array, config: dict[str, Any]) -> Result:
    """The objects that may enter the panoptic map: NMS whatever the class."""
    keep = nms(boxes, scores, np.zeros_like(labels), config["nms_thresh"])
    limit = config["max_detections"]
    if len(keep) > limit:
        keep = keep[scores[keep] >= scores[keep[limit - 1]]]
    keep = keep[scores[keep] > np.float32(config["score_thresh"])]
    return Result(boxes[keep], scores[keep], labels[keep])


def paste_upsnet(result: Result, masks: Array, sizes: Sizes, plus_one: bool) -> Result:
    """Detections in pixels of the image; of boxes from pixel to pixel, pixels are scaled."""
    if not plus_one:
        return paste_detections(result, masks, sizes)
    last_pixel = np.array([0, 0, 1, 1], np.float32)
    x_and_y = np.array(sizes.scale[::-1] * 2, np.float32)
    scaled = (result.boxes - last_pixel) / x_and_y
    boxes = clip(scaled + last_pixel, sizes.image, plus_one=True)
    pasted = paste_by_resizing(masks, boxes - last_pixel, sizes.image)
    return Result(boxes, result.scores, result.labels, pasted)


def windows_of(boxes: Array, size: Size) -> tuple[list[Any], list[Any]]:
    """Slices of rows and columns that each object's semantic and mask logits cover."""
    first, last = boxes[:, :2].astype(np.int64), boxes[:, 2:] - 1
    mask_end = last.astype(np.int64) + 1
    seg_end = np.maximum(np.round(last).astype(np.int64) + 1, mask_end)
    return tuple(  # type: ignore[return-value]
        [
            (slice(y1, max(y2, y1)), slice(x1, max(x2, x1)))
            for (x1, y1), (x2, y2) in zip(first, np.minimum(end, size[::-1]), strict=True)
        ]
        for end in (seg_end, mask_end)
    )


def resized(logits: Array, window: tuple[slice, slice]) -> Array:
    """Mask logits ``(m, m)`` resized to a window."""
    height, width = (s.stop - s.start for s in window)
    return interpolate(logits, (max(height, 1), max(width, 1)))[:height, :width]


def prune(masks: list[Array], windows: list[Any], labels: Array, size: Size, limit: float) -> Array:
    """Indices of the objects whose masks do not repeat those of better objects of their class."""
    taken: dict[int, Array] = {}
    kept = []
    for i, (mask, window) in enumerate(zip(masks, windows, strict=True)):
        inside = mask > 0
        before = taken.setdefault(labels[i], np.zeros(size, bool))[window]
        if inside.any() and (before & inside).sum() / inside.sum() <= limit:
            before |= inside
            kept.append(i)
    return np.array(kept, np.int64)


def panoptic_maps(
    objects: Result,
    mask_logits: Array,
    logits: Array,
    num_things: int,
    sizes: Sizes,
    config: dict[str, Any],
) -> Result:
    """The semantic and the panoptic map, of objects, their mask logits and semantic logits."""
    boxes, scores, labels = objects.boxes, objects.scores, objects.labels
    size = sizes.input
    seg, inner = windows_of(boxes, size)
    masks = [resized(m, window) for m, window in zip(mask_logits, inner, strict=True)]
    if config["prune"] and masks:
        kept = prune(masks, inner, labels, size, config["overlap_thresh"])
        if not len(kept):  # no mask has a pixel: the best object stays, without one
            kept, masks[0] = np.zeros(1, np.int64), np.zeros_like(masks[0])
        masks, seg, inner = ([part[i] for i in kept] for part in (masks, seg, inner))
        scores, labels = scores[kept], labels[kept]
    winners, semantic = panoptic_argmax(logits, num_things, labels, masks, seg, inner, size, config)
    rows, columns = (
        (np.arange(n) * s).astype(np.int64).clip(0, limit - 1)
        for n, s, limit in zip(sizes.image, sizes.scale, size, strict=True)
    )
    winners, semantic = winners[rows[:, None], columns], semantic[rows[:, None], columns]
    return assign_segments(winners, semantic, labels, scores, len(logits), num_things, config)


def panoptic_argmax(
    logits: Array,
    num_things: int,
    labels: Array,
    masks: list[Array],
    seg: list[Any],
    inner: list[Any],
    size: Size,
    config: dict[str, Any],
) -> tuple[Array, Array]:
    """``(H, W)`` stuff label, ``C + i`` for object i, or UNKNOWN; and the semantic label.

    Of equal logits the first wins. Without objects, ``C`` is the logit of 0.
    """
    wide = sample(logits, (np.arange(size[1], dtype=np.float32) + 0.5) / 4 - 0.5, 2)
    stuff, thing = np.full(size, -np.inf, np.float32), np.full(size, -np.inf, np.float32)
    stuff_label, thing_label = np.zeros(size, np.int64), np.zeros(size, np.int64)
    of_label = {label: np.empty(size, np.float32) for label in np.unique(labels)}
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
        for label, plane in of_label.items():
            plane[at] = strip[label]
    best, winners = stuff.copy(), stuff_label.copy()
    in_boxes = np.full(size, -np.inf if len(labels) else 0, np.float32)
    for i, label in enumerate(labels):
        term = np.zeros(size, np.float32)  # the logit of an object is 0 outside of its box
        term[seg[i]] = of_label[label][seg[i]]
        np.maximum(in_boxes, term, out=in_boxes)
        term[inner[i]] += masks[i]
        better = term > best
        winners[better] = len(logits) + i
        np.maximum(best, term, out=best)
    if not len(labels):
        winners[best < 0] = len(logits)
        best = np.maximum(best, 0)
    if config["unknown"]:
        winners[thing - in_boxes > best] = UNKNOWN
    return winners, np.where(thing > stuff, thing_label, stuff_label)


def assign_segments(
    winners: Array,
    semantic: Array,
    labels: Array,
    scores: Array,
    num_classes: int,
    num_things: int,
    config: dict[str, Any],
) -> Result:
    """Regions mostly labelled as stuff become stuff; small stuff is left out."""
    result = Result(semantic=semantic, panoptic=np.full(winners.shape, VOID, np.int32))
    winners = winners.copy()
    for i in range(max(len(labels), 1)):
        region = winners == num_classes + i
        votes = np.bincount(semantic[region], minlength=num_classes)
        # Of equal numbers stuff comes first.
        preferred = (np.roll(votes, -num_things).argmax() + num_things) % num_classes
        share = votes[preferred] / max(votes.sum(), 1)
        if region.any() and preferred >= num_things and share >= config["stuff_majority"]:
            winners[region] = preferred
        elif region.any() and len(labels):
            result.panoptic[region] = result.add_segment(int(labels[i]), float(scores[i]))
    for label in range(num_things, num_classes):
        region = winners == label
        if region.any() and region.sum() >= config["min_stuff_area"]:
            result.panoptic[region] = result.add_segment(label)
    return result
