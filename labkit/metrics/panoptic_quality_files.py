"""Panoptic quality of predictions stored as COCO panoptic files (JSON and a folder of PNGs).

Images stream through a pool of threads, so memory does not grow with their number beyond the JSON
itself: inflating a PNG, its ids and the shared areas, nearly all of the work, run without Python's
lock. This module and all that it imports stay clear of torch, whose import takes as long as a
thousand images.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco import compiled_maps
from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png
from labkit.datasets.file_names import resolve_file_name
from labkit.datasets.json_fields import id_type_hint
from labkit.errors import LabkitError
from labkit.metrics.panoptic_checks import checked_overlaps
from labkit.metrics.panoptic_matching import (
    PanopticResult,
    SegmentTable,
    count_matches,
    match_segments,
    summarize,
)
from labkit.system.cpu_cores import available_cores
from labkit.system.message_text import counted
from labkit.system.progress_bars import progress_bar

IMAGES_PER_TASK = 16  # enough that handing out work costs nothing, few enough to stop at once
WORTH_COMPILING = 200  # images; for fewer, compiling takes longer than it saves
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_MEMORY = 16 * 2**20  # a few times what one pair of COCO's maps needs


class ImagePair(NamedTuple):
    """One image's ground truth and prediction: PNGs and segments."""

    image_id: int | str
    size: tuple[int, int]
    target_png: Path
    target: SegmentTable
    prediction_png: Path
    prediction: SegmentTable


def evaluate_files(
    gt_json: str | Path,
    pred_json: str | Path,
    gt_dir: str | Path | None = None,
    pred_dir: str | Path | None = None,
    workers: int | None = None,
) -> PanopticResult:
    """Compute panoptic quality of predictions and ground truth in COCO panoptic format.

    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Notebook 06, section 6.8.

    Equal to panopticapi's numbers: true areas come from the JSON, predicted ones from the PNG;
    predictions of images that the ground truth does not annotate are ignored. The result does not
    depend on ``workers``.

    Args:
        gt_json: ground truth.
        pred_json: predictions; of their segments only ``id`` and ``category_id`` are used.
        gt_dir: folder of the ground truth's PNGs; default: the path of the JSON without ``.json``.
        pred_dir: folder of the predicted PNGs, default likewise.
        workers: threads; by default one per core.

    Raises:
        LabkitError: a file is missing, damaged or not in the format, an image has no prediction,
            or a PNG and its JSON disagree; the message names the first one in the JSON's order.
    """
    gt_json, pred_json = Path(gt_json), Path(pred_json)
    if workers is not None and workers < 1:
        raise LabkitError(f"workers must be at least 1, got {workers}")
    categories, pairs = _read_pairs(gt_json, pred_json, gt_dir, pred_dir)
    counts = np.zeros((len(categories), 4))
    count = partial(_count_pairs, num_categories=len(categories))
    tasks = [pairs[i : i + IMAGES_PER_TASK] for i in range(0, len(pairs), IMAGES_PER_TASK)]
    if len(pairs) >= WORTH_COMPILING:
        compiled_maps.load()
    _keep_freed_memory()
    pool = ThreadPoolExecutor(workers or available_cores())
    with progress_bar(total=len(pairs), unit="image", desc="labkit pq") as bar:
        try:
            # Summed in the JSON's order, so that rounding is the same for any number of workers.
            for task_counts in pool.map(count, tasks):
                for image_counts in task_counts:
                    counts += image_counts
                bar.update(len(task_counts))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nothing more is begun
    result = summarize(counts, categories)
    if result.all.n == 0:
        raise LabkitError(f"{gt_json}: neither it nor the predictions have a segment to measure")
    return result


def _folder(given: str | Path | None, json_path: Path, kind: str, option: str) -> Path:
    folder = json_path.with_suffix("") if given is None else Path(given)
    if not folder.is_dir():
        raise LabkitError(f"{folder}: no such folder of {kind} PNGs; name it with {option}")
    return folder


def _read_pairs(
    gt_json: Path, pred_json: Path, gt_dir: str | Path | None, pred_dir: str | Path | None
) -> tuple[list[tuple[int, str, bool]], list[ImagePair]]:
    """Read the categories (id, name, isthing) and the annotated images with their predictions."""
    gt = read_json(gt_json)
    gt_dir = _folder(gt_dir, gt_json, "ground truth", "--gt-dir")
    categories = [(c["id"], c["name"], bool(c["isthing"])) for c in gt["categories"]]
    label_of = {c[0]: label for label, c in enumerate(categories)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in gt["images"]}
    targets = {
        a["image_id"]: (a["file_name"], _table(a["segments_info"], label_of, stated=True))
        for a in gt["annotations"]
    }
    del gt  # as objects the JSON takes many times its size in the file
    predictions, others = {}, []
    for a in read_json(pred_json, predictions_for=label_of)["annotations"]:
        if a["image_id"] in targets:
            table = _table(a["segments_info"], label_of, stated=False)
            predictions[a["image_id"]] = a["file_name"], table
        else:
            others.append(a["image_id"])
    if not targets:
        raise LabkitError(f"{gt_json}: no image is annotated, so that there is nothing to measure")
    if missing := [image_id for image_id in targets if image_id not in predictions]:
        raise LabkitError(
            f"{pred_json}: no prediction for image {missing[0]} of {gt_json}"
            f" ({len(missing)} of {counted(len(targets), 'image')} are missing)"
            + id_type_hint(missing[0], others)
        )
    pred_dir = _folder(pred_dir, pred_json, "predicted", "--pred-dir")
    pairs = []
    for image_id, (target_png, target) in targets.items():
        prediction_png, prediction = predictions[image_id]
        pairs.append(
            ImagePair(
                image_id,
                sizes[image_id],
                resolve_file_name(gt_dir, target_png),
                target,
                resolve_file_name(pred_dir, prediction_png),
                prediction,
            )
        )
    return categories, pairs


def _table(segments: list[dict[str, Any]], label_of: dict[int, int], stated: bool) -> SegmentTable:
    return SegmentTable(
        np.array([s["id"] for s in segments], np.int32),
        np.array([label_of[s["category_id"]] for s in segments], np.int64),
        np.array([s["area"] for s in segments], np.float64) if stated else None,
        np.array([s["iscrowd"] if stated else False for s in segments], bool),
    )


def _count_pairs(pairs: Sequence[ImagePair], num_categories: int) -> list[NDArray[np.float64]]:
    return [_count_pair(pair, num_categories) for pair in pairs]


def _count_pair(pair: ImagePair, num_categories: int) -> NDArray[np.float64]:
    overlaps = checked_overlaps(
        read_png(pair.target_png, pair.size),
        read_png(pair.prediction_png),
        pair.target,
        pair.prediction,
        where=(
            f"{pair.target_png} (image {pair.image_id})",
            f"{pair.prediction_png} (image {pair.image_id})",
        ),
        names=("the PNG", "the JSON's segments_info"),
    )
    matches = match_segments(overlaps, pair.target, pair.prediction)
    return count_matches(matches, pair.target, pair.prediction, num_categories)


def _keep_freed_memory() -> None:
    """Let this process keep an image's freed arrays for the next image.

    Otherwise glibc may return them to the system and fetch the next ones page by page, which takes
    longer than everything else.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
        mallopt(M_MMAP_THRESHOLD, KEPT_MEMORY)
