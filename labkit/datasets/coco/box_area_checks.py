"""Checks of the boxes and areas in a COCO file against the masks of the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.masks.mask_folder import Region
from labkit.system.message_text import counted

BOX_SLACK = (2.0, 0.05)
"""Tolerance of a box edge: pixels, plus a share of the mask's side, because polygon corners may lie
between pixels."""
AREA_SLACK = (0.1, 0.5)
"""Tolerance of an area: a share of the area, plus a share of the sum of the mask's sides, for the
border of a polygon."""


FARTHEST = 1e9
"""Coordinates beyond it are no numbers of pixels; Python's integers have no end."""


def check_box_and_area(
    dataset: Any, index: int, regions: Sequence[Region]
) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of every box and area that does not fit its mask."""
    if isinstance(dataset, CocoInstances):
        info = dataset.image_info(index)
        rows = zip(dataset.annotations(index), dataset.raw_annotations(index), strict=True)
        for row, raw in rows:
            name = dataset.categories[dataset.categories.label(row["category_id"])].name
            what = f"annotation {row.get('id', 'without id')} ({name})"
            area = float(coco_mask.area(row["segmentation"]))
            box = coco_mask.toBbox(row["segmentation"]).tolist()
            if area == 0:
                extent = _extent(raw["segmentation"])
                yield "vanished", f"{what}: its mask has no pixel in the image{extent}"
                continue
            if min(row["bbox"][2:]) == 0:
                yield "box", f"{what}: bbox {row['bbox']} has no area; training leaves it out"
            elif not _is_box(row["bbox"], box):
                hint = _meant(row["bbox"], box, (info["width"], info["height"]))
                yield "box", f"{what}: bbox {row['bbox']}, its mask has {_short(box)}{hint}"
            slack = AREA_SLACK[0] * max(area, row["area"]) + AREA_SLACK[1] * sum(box[2:])
            if abs(row["area"] - area) > slack:
                pixels = counted(int(area), "pixel")
                yield "area", f"{what}: area {row['area']:g}, its mask has {pixels}"
    elif isinstance(dataset, CocoPanoptic):
        yield from _segments(dataset, index, regions)


def _segments(
    dataset: CocoPanoptic, index: int, regions: Sequence[Region]
) -> Iterator[tuple[str, str]]:
    rows = [row for row in dataset.segments(index) if not row["iscrowd"]]
    for row, (label, mask) in zip(rows, regions, strict=True):
        what = f"segment {row['id']} ({dataset.categories[label].name})"
        area = int(mask.sum())
        if abs(row["area"] - area) >= 1:
            yield "area", f"{what}: area {row['area']:g}, the PNG has {counted(area, 'pixel')}"
        found = row.get("bbox")
        numbers = isinstance(found, list) and [_is_coordinate(v) for v in found] == [True] * 4
        if found is None:
            continue
        y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [float(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]
        if not numbers:
            yield "box", f"{what}: bbox {found} is not a box x, y, width, height"
        elif not _is_box(found, box):
            size = dataset.image_info(index)
            hint = _meant(found, box, (size["width"], size["height"]))
            yield "box", f"{what}: bbox {found}, the PNG has {_short(box)}{hint}"


def _is_coordinate(value: Any) -> bool:
    """Whether a value can be a coordinate in an image: no text, not infinite, not beyond sense."""
    return type(value) in (int, float) and abs(value) <= FARTHEST


def _is_box(stated_box: Sequence[float], box: Sequence[float]) -> bool:
    """Whether all edges of a box (x, y, width, height) are close to those of the mask."""
    for start, side in ((0, 2), (1, 3)):
        slack = BOX_SLACK[0] + BOX_SLACK[1] * box[side]
        ends = stated_box[start] + stated_box[side], box[start] + box[side]
        if not (abs(stated_box[start] - box[start]) <= slack and abs(ends[0] - ends[1]) <= slack):
            return False
    return True


def _meant(stated_box: Sequence[float], box: Sequence[float], size: tuple[int, int]) -> str:
    """Hint at another box format in which the numbers would fit the mask."""
    a, b, c, d = stated_box
    width, height = size
    forms = {
        "x1, y1, x2, y2": (a, b, c - a, d - b),
        "x, y, height, width": (a, b, d, c),
        "y, x, height, width": (b, a, d, c),
        "the middle, width, height": (a - c / 2, b - d / 2, c, d),
        "shares of the image": (a * width, b * height, c * width, d * height),
    }
    for form, meant in forms.items():
        if _is_box(meant, box):
            return f"; it looks like {form}, COCO's is x, y, width, height in pixels"
    return ""


def _short(box: Sequence[float]) -> list[int]:
    return [round(value) for value in box]


def _extent(segmentation: Any) -> str:
    """Text with the range of the polygons' coordinates."""
    if not isinstance(segmentation, list):
        return ""
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return f"; its polygon spans x {min(xs):g} to {max(xs):g}, y {min(ys):g} to {max(ys):g}"
