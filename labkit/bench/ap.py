"""Times of average precision: labkit's readable steps against pycocotools and hotcoco.

`labkit eval` takes its numbers from pycocotools, which the papers used.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from labkit.bench.panoptic_pairs import categories, make_pair
from labkit.bench.peer_comparison import PeerComparison, compare_with_peer, timed
from labkit.metrics.average_precision import Kind, average_precision
from labkit.metrics.coco_annotations import Annotation, detection_annotations, gt_annotations
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import Categories, Detections, Target

REPEATS = 3
COCO = Categories.from_coco(categories())
COCO_KINDS: dict[Kind, str] = {"boxes": "bbox", "masks": "segm"}
Dataset = dict[str, list[Any]]


def compare_ap(images: int, peers: Sequence[str]) -> list[PeerComparison]:
    """Compare AP of boxes and of masks on the same detections in memory, with one thread.

    Args:
        images: how many to make.
        peers: of ``PEERS``, those that are installed.
    """
    pairs = [make_detections(index) for index in range(images)]
    gt = _dataset([gt_annotations(target, COCO.things) for _, target in pairs])
    found = _dataset([detection_annotations(detections) for detections, _ in pairs])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            compare_with_peer(
                f"{kind}, {images} images",
                peer,
                partial(timed, partial(_readable, pairs, kind)),
                partial(timed, partial(PEERS[peer], gt, found, COCO_KINDS[kind])),
                items=images,
                target=None,
                repeats=REPEATS,
            )
            for kind in COCO_KINDS
            for peer in peers
        ]
    finally:
        torch.set_num_threads(threads)


def make_detections(index: int) -> tuple[Detections, Target]:
    """Make detections and ground truth of image ``index``: the things of a panoptic pair."""
    rng = np.random.default_rng(index)
    (ids, truth), (predicted_ids, prediction) = make_pair(index)
    boxes, labels, masks = _objects(ids, truth)
    target: Target = {"boxes": boxes, "labels": labels, "masks": masks, "image_id": index}
    boxes, labels, masks = _objects(predicted_ids, prediction)
    scores = torch.from_numpy(rng.random(len(labels), np.float32))
    return Detections(boxes, scores, labels, masks), target


def _objects(
    ids: np.ndarray, segments: list[dict[str, Any]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes ``(N, 4)``, labels ``(N,)`` and masks ``(N, H, W)`` of the things of a map."""
    labels = [COCO.label(s["category_id"]) for s in segments]
    things = [
        (s["id"], label) for s, label in zip(segments, labels, strict=True) if label in COCO.things
    ]
    masks = torch.from_numpy(ids) == torch.tensor([id for id, _ in things])[:, None, None]
    return masks_to_edge_boxes(masks), torch.tensor([label for _, label in things]), masks


def _dataset(images: Sequence[Sequence[Annotation]]) -> Dataset:
    rows = [{**a, "image_id": n} for n, entries in enumerate(images) for a in entries]
    height, width = make_pair(0)[0][0].shape
    return {
        "images": [{"id": n, "height": height, "width": width} for n in range(len(images))],
        "categories": [{"id": label, "name": str(label)} for label in COCO.things],
        "annotations": [
            {"iscrowd": 0, "area": 1.0, **row, "id": n} for n, row in enumerate(rows, 1)
        ],
    }


def _readable(pairs: Sequence[tuple[Detections, Target]], kind: Kind) -> float:
    return average_precision(pairs, COCO, kind).ap


def _pycocotools(gt: Dataset, found: Dataset, kind: str) -> float:
    from pycocotools.coco import COCO as Index
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        indices = Index(), Index()
        for index, content in zip(indices, (gt, found), strict=True):
            index.dataset = content
            index.createIndex()
        evaluation = COCOeval(*indices, kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return _mean_precision(evaluation.eval["precision"])


def _hotcoco(gt: Dataset, found: Dataset, kind: str) -> float:
    from hotcoco import COCO as Index
    from hotcoco import COCOeval

    evaluation = COCOeval(Index(gt), Index(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    result = evaluation.eval
    assert result is not None
    return _mean_precision(result["precision"])


def _mean_precision(precision: np.ndarray) -> float:
    """AP of a table (thresholds, recalls, classes, areas, numbers of detections)."""
    everywhere = precision[..., 0, -1]
    return float(everywhere[everywhere > -1].mean())  # -1: a class without objects


PEERS = {"pycocotools": _pycocotools, "hotcoco": _hotcoco}
