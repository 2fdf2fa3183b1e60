"""Mask R-CNN and Panoptic FPN: proposals, detections, masks, and the merge with stuff."""

from __future__ import annotations

from typing import Any

import numpy as np

from labkit.deploy.boxes import clip, decode, grid_anchors, larger_than, nms, scale
from labkit.deploy.images import at_input_size, interpolate, paste, paste_by_resizing
from labkit.deploy.result import IGNORE, VOID, Array, Result, Run, Sizes

BOX_WEIGHTS = (10, 10, 5, 5)


def predict(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """Detections and, of a Panoptic FPN, the semantic and the panoptic map."""
    maps = run("features", image=batch)
    result = detect(*score_proposals(run, maps, sizes, config), config["roi_heads"])
    masks = predict_masks(run, maps, result)["masks"] if config["masks"] else None
    result = paste_detections(result, masks, sizes, config["paste_by_resizing"])
    if "sem_seg_logits" in maps:
        channels = semantic_map(maps["sem_seg_logits"][0], sizes)
        semantic = np.array(config["label_of"])[channels]
        merge(result, semantic, num_things, config["merge"])
        result.semantic = np.where(semantic == IGNORE, result.labels_of_panoptic(), semantic)
    return result


def score_proposals(
    run: Run, maps: dict[str, Array], sizes: Sizes, config: dict[str, Any]
) -> tuple[Array, Array, Array]:
    """Boxes, scores and labels of all pairs of a proposal and a thing above the threshold."""
    roi, proposals = config["roi_heads"], propose(maps, sizes, config["rpn"])
    if len(proposals) == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    scored = run("boxes", boxes=proposals, **maps)
    deltas = scored["deltas"].reshape(len(proposals), -1, 4)
    boxes = clip(decode(deltas, proposals, BOX_WEIGHTS), sizes.input, roi["plus_one"])
    probabilities = scored["probabilities"][:, : boxes.shape[1]]
    rows, labels = (probabilities > np.float32(roi["score_thresh"])).nonzero()
    boxes, scores = boxes[rows, labels], probabilities[rows, labels]
    valid = np.isfinite(boxes).all(axis=1)
    if roi["min_size"] > 0:
        valid &= larger_than(boxes, roi["min_size"])
    return boxes[valid], scores[valid], labels[valid]


def propose(maps: dict[str, Array], sizes: Sizes, rpn: dict[str, Any]) -> Array:
    """Proposals ``(K, 4)`` from objectness ``(1, n)`` and deltas ``(1, n, 4)`` of each level."""
    boxes: list[Array] = []
    scores: list[Array] = []
    levels: list[Array] = []
    for name, stride, cell in zip(rpn["levels"], rpn["strides"], rpn["anchors"], strict=True):
        height, width = sizes.padded
        grid, steps = (-(-height // stride), -(-width // stride)), (stride, stride)
        if rpn["strides_from_grid"]:
            steps = (height // grid[0], width // grid[1])
        score, deltas = maps[f"objectness_{name}"][0], maps[f"deltas_{name}"][0]
        if rpn["rank_by_probability"]:
            score = 1 / (1 + np.exp(-score))
        best = np.argsort(-score, kind="stable")[: rpn["pre_nms_top_n"]]
        anchors = grid_anchors(np.array(cell, np.float32), grid, steps)[best]
        boxes.append(decode(deltas[best][:, None], anchors, (1, 1, 1, 1))[:, 0])
        scores.append(score[best])
        levels.append(np.full(len(best), len(levels)))
    box, score, level = (np.concatenate(parts) for parts in (boxes, scores, levels))
    box = clip(box, sizes.input, rpn["plus_one"])
    valid = np.isfinite(box).all(axis=1) & np.isfinite(score) & larger_than(box, rpn["min_size"])
    box, score, level = box[valid], score[valid], level[valid]
    return box[nms(box, score, level, rpn["nms_thresh"])[: rpn["post_nms_top_n"]]]


def detect(boxes: Array, scores: Array, labels: Array, roi: dict[str, Any]) -> Result:
    """Suppress boxes class by class; boxes are in pixels of the network's input."""
    keep = nms(boxes, scores, labels, roi["nms_thresh"])[: roi["detections_per_img"]]
    return Result(boxes, scores, labels).take(keep)


def predict_masks(run: Run, maps: dict[str, Array], result: Result) -> dict[str, Array]:
    """Mask probabilities and logits ``(n, m, m)`` of boxes in pixels of the network's input."""
    if len(result.boxes) == 0:
        return dict.fromkeys(("masks", "mask_logits"), np.zeros((0, 1, 1), np.float32))
    return run("masks", boxes=result.boxes, labels=result.labels, **maps)


def paste_detections(
    result: Result, masks: Array | None, sizes: Sizes, by_resizing: bool = False
) -> Result:
    """Detections in pixels of the image, with masks from their probabilities."""
    (height, width), image = sizes.input, sizes.image
    boxes = clip(scale(result.boxes, image[0] / height, image[1] / width), image)
    keep = larger_than(boxes, 0)
    pasted = None
    if masks is not None:
        pasted = (paste_by_resizing if by_resizing else paste)(masks[keep], boxes[keep], image)
    return Result(boxes[keep], result.scores[keep], result.labels[keep], pasted)


def semantic_map(logits: Array, sizes: Sizes) -> Array:
    """``(H, W)`` the channel of the largest logit at the image's size, of logits ``(C, h, w)``."""
    logits = at_input_size(logits, sizes)
    return interpolate(logits, sizes.image).argmax(axis=0)


def merge(result: Result, semantic: Array, num_things: int, config: dict[str, Any]) -> None:
    """Add the panoptic map: objects, highest score first, then stuff where nothing was painted."""
    result.panoptic = np.full(semantic.shape, VOID, np.int32)
    free = np.ones(semantic.shape, bool)
    for i in np.argsort(-result.scores, kind="stable"):
        if float(result.scores[i]) < config["score_thresh"]:
            break
        visible = result.masks[i] & free
        area, left = int(result.masks[i].sum()), int(visible.sum())
        if left == 0 or (area - left) / area > config["overlap_thresh"]:
            continue
        number = result.add_segment(int(result.labels[i]), float(result.scores[i]))
        result.panoptic[visible] = number
        free &= ~visible
    for label in np.unique(semantic[free & (semantic >= num_things) & (semantic != IGNORE)]):
        region = free & (semantic == label)
        if region.sum() >= config["min_stuff_area"]:
            result.panoptic[region] = result.add_segment(int(label))
