"""Golden numbers for panoptic quality, from a run of panopticapi itself.

    LABKIT_DATA=... python tests/golden/make_panoptic_quality.py

writes ``panoptic_quality.json`` beside this file; panopticapi must be importable
(``labkit install panopticapi``) and LABKIT_DATA must have ``coco_panoptic_sample``. The cases are
files made by this script without labkit, the same on every machine; the tests make them again and
compare labkit's numbers with those written here.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).with_name("panoptic_quality.json")
SEEDS = range(8)
IMAGES = 12
CATEGORIES = [  # the last one never occurs
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 17, "name": "sky", "isthing": 0},
    {"id": 5, "name": "dog", "isthing": 1},
    {"id": 200, "name": "grass", "isthing": 0},
    {"id": 90, "name": "ghost", "isthing": 1},
]

Segments = list[dict[str, Any]]


def write_set(
    json_path: Path, maps: list[np.ndarray], segments: list[Segments], categories: Segments
) -> None:
    """One side of a case: PNGs in the folder named like the JSON, and the JSON."""
    folder = json_path.with_suffix("")
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i, (ids, infos) in enumerate(zip(maps, segments, strict=True)):
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{i}.png")
        images.append(
            {"id": i, "file_name": f"{i}.jpg", "height": ids.shape[0], "width": ids.shape[1]}
        )
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
    content = {"images": images, "annotations": annotations, "categories": categories}
    json_path.write_text(json.dumps(content))


def random_case(folder: Path, seed: int) -> None:
    """Overlapping rectangles with void, crowds (several of a category too) and empty images."""
    # Random.random() alone is promised to give the same numbers in every version of Python.
    random = Random(seed).random
    truth: tuple[list[np.ndarray], list[Segments]] = ([], [])
    prediction: tuple[list[np.ndarray], list[Segments]] = ([], [])
    for i in range(IMAGES):
        height, width = 16 + int(24 * random()), 16 + int(24 * random())
        boxes = []
        for _ in range(0 if i in (3, 5) else 2 + int(8 * random())):
            y, x = int(0.8 * height * random()), int(0.8 * width * random())
            bottom, right = (
                y + 3 + int(0.6 * height * random()),
                x + 3 + int(0.6 * width * random()),
            )
            category = CATEGORIES[int(4 * random())]["id"]
            boxes.append([y, x, bottom, right, category, int(random() < 0.3)])
        moved = [
            [
                *(max(0, v + int(5 * random()) - 2) for v in box[:4]),
                CATEGORIES[int(4 * random())]["id"] if random() < 0.2 else box[4],
                0,
            ]
            for box in boxes
            if random() > 0.15
        ]
        if i == 3:  # nothing is true, something is predicted
            moved = [[0, 0, 9, 9, 3, 0], [9, 9, 12, 12, 17, 0]]
        if i == 7:  # something is true, nothing is predicted
            moved = []
        for (maps, segments), rectangles in ((truth, boxes), (prediction, moved)):
            ids, infos = _paint(random, height, width, rectangles)
            maps.append(ids)
            segments.append(infos)
    for infos in truth[1]:
        for info in infos:
            if random() < 0.2:  # the JSON's area counts, whatever the PNG says
                info["area"] += 2
    # A model may number segments from 0, which is void everywhere else.
    prediction[0][0][:] = 0
    prediction[1][0] = [{"id": 0, "category_id": truth[1][0][0]["category_id"]}]
    write_set(folder / "gt.json", *truth, CATEGORIES)
    write_set(folder / "pred.json", *prediction, CATEGORIES)


def _paint(
    random: Callable[[], float], height: int, width: int, rectangles: list[list[int]]
) -> tuple[np.ndarray, Segments]:
    ids = np.zeros((height, width), np.int64)
    infos = []
    for n, (y, x, bottom, right, category, crowd) in enumerate(rectangles):
        id = 1 + n + 20 * int(800_000 * random())
        ids[y:bottom, x:right] = id
        infos.append({"id": id, "category_id": category, "iscrowd": crowd})
    visible = [{**info, "area": int((ids == info["id"]).sum())} for info in infos]
    return ids, [info for info in visible if info["area"]]


def shift_right(ids: np.ndarray, infos: Segments) -> tuple[np.ndarray, Segments]:
    return np.roll(ids, 5, axis=1), infos


def shift_far(ids: np.ndarray, infos: Segments) -> tuple[np.ndarray, Segments]:
    return np.roll(ids, (14, -11), axis=(0, 1)), infos


def drop_every_fifth(ids: np.ndarray, infos: Segments) -> tuple[np.ndarray, Segments]:
    dropped = [info["id"] for info in infos[::5]]
    kept = [info for info in infos if info["id"] not in dropped]
    return np.where(np.isin(ids, dropped), 0, ids), kept


def rename_every_third(ids: np.ndarray, infos: Segments) -> tuple[np.ndarray, Segments]:
    renamed = [
        {**info, "category_id": infos[-1]["category_id"]} if i % 3 == 0 else info
        for i, info in enumerate(infos)
    ]
    return np.roll(ids, 2, axis=0), renamed


PERTURBATIONS = {
    "itself": lambda ids, infos: (ids, infos),
    "shift_right": shift_right,
    "shift_far": shift_far,
    "drop_every_fifth": drop_every_fifth,
    "rename_every_third": rename_every_third,
}


def sample_case(folder: Path, sample: Path, name: str) -> None:
    """Real COCO annotations against a copy changed by ``PERTURBATIONS[name]``."""
    content = json.loads((sample / "panoptic_examples.json").read_text())
    truth: tuple[list[np.ndarray], list[Segments]] = ([], [])
    prediction: tuple[list[np.ndarray], list[Segments]] = ([], [])
    for annotation in content["annotations"]:
        with Image.open(sample / "panoptic_examples" / annotation["file_name"]) as png:
            rgb = np.array(png, np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        changed, infos = PERTURBATIONS[name](ids, annotation["segments_info"])
        truth[0].append(ids)
        truth[1].append(annotation["segments_info"])
        prediction[0].append(changed)
        prediction[1].append(infos)
    write_set(folder / "gt.json", *truth, content["categories"])
    write_set(folder / "pred.json", *prediction, content["categories"])


def run_panopticapi(folder: Path) -> dict[str, Any]:
    """The original's counts per category (IoU sum, TP, FP, FN) and its averages."""
    from panopticapi.evaluation import pq_compute_single_core

    gt, pred = (json.loads((folder / f"{n}.json").read_text()) for n in ("gt", "pred"))
    categories = {c["id"]: c for c in gt["categories"]}
    by_image = {a["image_id"]: a for a in pred["annotations"]}
    pairs = [(a, by_image[a["image_id"]]) for a in gt["annotations"]]
    stat = pq_compute_single_core(0, pairs, str(folder / "gt"), str(folder / "pred"), categories)
    counts = {str(id): [float(s.iou), s.tp, s.fp, s.fn] for id, s in stat.pq_per_cat.items()}
    result: dict[str, Any] = {"counts": {id: c for id, c in counts.items() if any(c)}}
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        mean, _ = stat.pq_average(categories, isthing)
        result[group] = {key: float(value) for key, value in mean.items()}
    return result


def main() -> None:
    sample = Path(os.environ["LABKIT_DATA"]) / "coco_panoptic_sample"
    golden: dict[str, Any] = {"random": {}, "sample": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in SEEDS:
            folder = Path(temporary) / f"random-{seed}"
            random_case(folder, seed)
            golden["random"][str(seed)] = run_panopticapi(folder)
        for name in PERTURBATIONS:
            folder = Path(temporary) / name
            sample_case(folder, sample, name)
            golden["sample"][name] = run_panopticapi(folder)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    sys.stdout.write(f"wrote {GOLDEN}\n")


if __name__ == "__main__":
    main()
