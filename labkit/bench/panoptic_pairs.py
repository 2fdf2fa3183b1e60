"""Pairs of panoptic maps at COCO's size and complexity, made from a seed, for measuring.

Wavy bands of stuff, ragged blobs in front, an unlabelled patch in the ground truth; the prediction
has the same shapes slightly moved, some missing, of another class or added. It covers every pixel
and there is no crowd, so that implementations which differ in those respects give the same quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco.panoptic_json import MAX_ID, write_json
from labkit.datasets.coco.panoptic_png import write_png
from labkit.system.progress_bars import progress_bar

HEIGHT, WIDTH = 480, 640
NUM_THINGS, NUM_STUFF = 80, 53  # as in COCO
BANDS, BLOBS = 5, 13


@dataclass(frozen=True)
class Polygon:
    """A filled polygon: ``points`` ``(V, 2)`` x, y in pixels; category id 0 is unlabelled."""

    points: NDArray[np.float64]
    category_id: int


def categories() -> list[dict[str, Any]]:
    """The ``categories`` of a panoptic JSON: things have ids 1..80, stuff 81..133."""
    return [
        {"id": i, "name": f"category {i}", "isthing": int(i <= NUM_THINGS)}
        for i in range(1, NUM_THINGS + NUM_STUFF + 1)
    ]


def make_pair(index: int) -> list[tuple[NDArray[np.int32], list[dict[str, Any]]]]:
    """Make ground truth and prediction of pair ``index``: ids ``(480, 640)``, ``segments_info``."""
    rng = np.random.default_rng(index)
    bands = [
        Polygon(_band(rng, k * HEIGHT / BANDS if k else -HEIGHT), int(category))
        for k, category in enumerate(NUM_THINGS + 1 + rng.permutation(NUM_STUFF)[:BANDS])
    ]
    blobs = [Polygon(_blob(rng), int(rng.integers(1, NUM_THINGS + 1))) for _ in range(BLOBS)]
    predicted = [Polygon(_moved(rng, s.points), s.category_id) for s in bands]
    for shape in blobs:
        renamed = rng.random() < 0.1
        category = int(rng.integers(1, NUM_THINGS + 1)) if renamed else shape.category_id
        if rng.random() > 0.1:
            predicted.append(Polygon(_moved(rng, shape.points), category))
    predicted.append(Polygon(_blob(rng), int(rng.integers(1, NUM_THINGS + 1))))
    return [_paint(rng, [*bands, *blobs, Polygon(_blob(rng), 0)]), _paint(rng, predicted)]


def _band(rng: np.random.Generator, top: float) -> NDArray[np.float64]:
    """Polygon below a wavy line."""
    x = np.linspace(-20, WIDTH + 20, 120)
    waves = sum(
        rng.uniform(4, 20) * np.sin(x * rng.uniform(0.005, 0.05) + rng.uniform(0, 6))
        for _ in range(3)
    )
    line = np.stack([x, top + waves + rng.normal(0, 1.5, x.size)], axis=1)
    return np.concatenate([line, [[WIDTH + 20, 2 * HEIGHT], [-20, 2 * HEIGHT]]])


def _blob(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = np.exp(rng.uniform(np.log(8), np.log(110)))  # small, medium and large
    outline = 1 + sum(
        rng.uniform(0, 0.2) * np.sin(k * angle + rng.uniform(0, 6)) for k in range(1, 6)
    )
    outline += rng.normal(0, 0.03, angle.size)
    center = rng.uniform((0, 0), (WIDTH, HEIGHT))
    stretch = rng.uniform(0.6, 1.6, 2)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return center + radius * stretch * outline[:, None] * direction


def _moved(rng: np.random.Generator, points: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.minimum(np.ptp(points, axis=0), HEIGHT)
    return points + rng.normal(0, 0.04, 2) * size + rng.normal(0, 1.5, points.shape)


def _paint(
    rng: np.random.Generator, shapes: list[Polygon]
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Paint polygons in order; visible ones become segments with random ids."""
    layers = np.ones((HEIGHT, WIDTH), np.uint8)  # value k shows shape k - 1
    for value, shape in enumerate(shapes, start=1):
        cv2.fillPoly(layers, [np.round(shape.points).astype(np.int32)], value)
    areas = np.bincount(layers.ravel(), minlength=len(shapes) + 1)[1:].tolist()
    ids = 1 + rng.choice(MAX_ID, len(shapes), replace=False)
    ids[[s.category_id == 0 for s in shapes]] = 0
    segments = [
        {"id": int(id), "category_id": s.category_id, "area": area, "iscrowd": 0}
        for id, s, area in zip(ids, shapes, areas, strict=True)
        if id and area
    ]
    return np.concatenate([[0], ids]).astype(np.int32)[layers], segments


def write_pairs(folder: Path, count: int) -> tuple[Path, Path]:
    """Write ``count`` pairs as COCO panoptic files; return the two JSONs' paths."""
    jsons = folder / "gt.json", folder / "pred.json"
    for path in jsons:
        path.with_suffix("").mkdir(parents=True)
    annotations: tuple[list[dict[str, Any]], ...] = ([], [])
    for index in progress_bar(range(count), unit="image", desc="making files"):
        name = f"{index:012d}.png"
        for path, entries, (ids, segments) in zip(
            jsons, annotations, make_pair(index), strict=True
        ):
            write_png(path.with_suffix("") / name, ids)
            entries.append({"image_id": index, "file_name": name, "segments_info": segments})
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH}
        for i in range(count)
    ]
    for path, entries in zip(jsons, annotations, strict=True):
        write_json(path, {"images": images, "categories": categories(), "annotations": entries})
    return jsons
