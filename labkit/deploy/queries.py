"""DETR, Mask2Former and EoMT: results of a fixed set of queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from labkit.deploy.boxes import clip, scale
from labkit.deploy.images import at_input_size, interpolate, nearest
from labkit.deploy.rcnn import merge
from labkit.deploy.result import IGNORE, VOID, Array, Result, Run, Size, Sizes


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Of each element; logits below -80 count as -80, whose exponential does not overflow."""
    return 1 / (1 + np.exp(-logits.clip(-80)))


def predict_detr(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """Detections and, with stuff, the panoptic map of DETR's queries."""
    outputs = run("network", image=batch, padding=padding_of(sizes))
    probability, size = softmax(outputs["pred_logits"][0]), sizes.image
    scores = probability[:, :-1].max(axis=1)
    labels = np.array(config["label_of"])[probability[:, :-1].argmax(axis=1)]
    keep = labels >= 0
    if config["masks"]:
        keep &= scores > probability[:, -1]
    centre, sides = np.split(outputs["pred_boxes"][0][keep], 2, axis=1)
    boxes = np.concatenate([centre - 0.5 * sides, centre + 0.5 * sides], axis=1)
    found = Result(clip(scale(boxes, *size), size), scores[keep], labels[keep])
    if config["masks"]:
        logits = at_input_size(outputs["mask_logits"][0][keep], sizes)
        found.masks = nearest(logits > 0, size)
    order = np.argsort(-found.scores, kind="stable")
    is_thing = found.labels < num_things
    certain = found.scores > np.float32(config["score_thresh"])
    result = found.take(order[is_thing[order]])
    if not config["panoptic"]:
        return result
    if config["masks"]:
        chosen = (logits[certain], found.labels[certain], found.scores[certain])
        detr_panoptic(result, *chosen, num_things, size, config["min_segment_area"])
    else:
        found.masks = fill_boxes(boxes, size)
        order = order[certain[order]]
        things, stuff = (found.take(order[part[order]]) for part in (is_thing, ~is_thing))
        merge_boxes(result, things, stuff, num_things)
    result.semantic = result.labels_of_panoptic()
    return result


def merge_boxes(result: Result, things: Result, stuff: Result, num_things: int) -> None:
    """Add the panoptic map of filled boxes: the smallest of stuff is in front, things before it."""
    semantic = np.full(stuff.masks.shape[1:], IGNORE)
    for i in np.argsort(-stuff.masks.sum(axis=(1, 2)), kind="stable"):
        semantic[stuff.masks[i]] = stuff.labels[i]
    limits = {"score_thresh": 0, "overlap_thresh": 0.5, "min_stuff_area": 1}
    merge(things, semantic, num_things, limits)
    result.panoptic, result.segments = things.panoptic, things.segments


def padding_of(sizes: Sizes) -> Array:
    """``(1, H, W)`` bool, True where the padded image is padding."""
    padding = np.ones((1, *sizes.padded), bool)
    padding[:, : sizes.input[0], : sizes.input[1]] = False
    return padding


def fill_boxes(boxes: Array, size: Size) -> Array:
    """``(N, H, W)`` bool: the pixels whose centres are in boxes of fractions."""
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / np.float32(n) for n in size)
    left, top, right, bottom = boxes.T[:, :, None]
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows[:, :, None] & columns[:, None]


def detr_panoptic(
    result: Result,
    masks: Array,
    labels: Array,
    scores: Array,
    num_things: int,
    size: Size,
    min_segment_area: int,
) -> None:
    """Add the panoptic map: the largest mask logit wins each pixel, then small segments go."""
    first = [i if k < num_things else list(labels).index(k) for i, k in enumerate(labels)]
    while len(labels):
        largest = np.array(first, np.int32)[masks.argmax(axis=0)]
        image = Image.fromarray(largest).resize(size[::-1], Image.Resampling.NEAREST)
        winners = np.array(image)
        keep = np.bincount(winners.ravel(), minlength=len(labels)) > min_segment_area
        if keep.all():
            break
        masks, labels, scores = masks[keep], labels[keep], scores[keep]
        first = list(range(len(labels)))
    result.panoptic = winners + 1 if len(labels) else np.full(size, VOID, np.int32)
    for label, score in zip(labels.tolist(), scores.tolist(), strict=True):
        result.add_segment(label, score if label < num_things else None)


def predict_masks(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """Detections and, with stuff, both maps of queries with a class and a mask."""
    outputs = run("network", image=batch)
    probability, image_size = softmax(outputs["class_logits"][0]), sizes.image
    logits = interpolate(at_input_size(outputs["mask_logits"][0], sizes), image_size)
    result = instances(probability[:, :-1], logits, num_things, config["detections_per_image"])
    if config["panoptic"]:
        p = sigmoid(logits)
        sums = probability[:, :-1].T @ p.reshape(len(p), -1)
        result.semantic = sums.argmax(axis=0).reshape(image_size)
        mask_panoptic(result, probability, p, num_things, config)
    return result


def instances(probability: Array, logits: Array, num_things: int, limit: int) -> Result:
    """The best pairs of a query and a thing; the score is that of the class and of the mask."""
    pairs = np.argsort(-probability.ravel(), kind="stable")[:limit]
    queries, labels = np.divmod(pairs, probability.shape[1])
    queries, labels = queries[labels < num_things], labels[labels < num_things]
    unique, which = np.unique(queries, return_inverse=True)
    masks = logits[unique] > 0
    areas = masks.sum(axis=(1, 2)).astype(np.float32)
    mask_scores = (sigmoid(logits[unique]) * masks).sum(axis=(1, 2)) / (areas + np.float32(1e-6))
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    scores = probability[queries, labels] * mask_scores[which]
    order = np.argsort(-scores, kind="stable")
    which = which[order]
    return Result(boxes[which], scores[order], labels[order], masks[which])


def mask_panoptic(
    result: Result, probability: Array, p: Array, num_things: int, config: dict[str, Any]
) -> None:
    """Add the panoptic map: the largest product of class score and mask probability wins."""
    scores, labels = probability.max(axis=1), probability.argmax(axis=1)
    keep = (labels < probability.shape[1] - 1) & (scores > np.float32(config["score_thresh"]))
    scores, labels, p = scores[keep], labels[keep], p[keep]
    result.panoptic = np.full(p.shape[1:], VOID, np.int32)
    winners = (scores[:, None, None] * p).argmax(axis=0) if len(p) else result.panoptic
    id_of_stuff: dict[int, int] = {}
    for i, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        won, mask = winners == i, p[i] >= 0.5
        region = won & mask if config["inside_mask"] else won
        if not mask.any() or not region.any() or won.sum() / mask.sum() < config["overlap_thresh"]:
            continue
        number = id_of_stuff.get(label)
        if number is None:
            number = result.add_segment(label, score if label < num_things else None)
        if label >= num_things:
            id_of_stuff[label] = number
        result.panoptic[region] = number
