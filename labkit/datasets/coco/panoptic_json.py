"""Reading, with a check of every field, and writing the JSON of the COCO panoptic format.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from labkit.datasets.json_fields import (
    check_category_entries,
    check_image_entries,
    entries,
    id_type_hint,
    read_json_file,
    require_fields,
    unique,
)
from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.message_text import listed

MAX_ID = 256**3 - 1
"""Largest segment id that fits into the three bytes of a colour."""


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file, completely or not at all.

    Raises:
        LabkitError: the file cannot be written.
    """
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(json.dumps(data).encode())


def read_json(
    path: str | Path, predictions_for: Collection[int] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Read and check a panoptic JSON.

    Args:
        path: the file.
        predictions_for: None for ground truth. Otherwise the file holds predictions for these
            category ids, and may leave out ``images``, ``categories``, ``area`` and ``iscrowd``.

    Returns:
        The content, with integers that are written as 1.0 converted. Ground truth has the lists
        ``images``, ``categories`` and ``annotations``; an image may have no annotation.

    Raises:
        LabkitError: not a JSON, not a panoptic JSON, a field is missing or of wrong type, an image,
            category or segment id occurs twice, or a category or image is unknown.
    """
    data = read_json_file(path)
    _check_is_panoptic(data, path)

    categories, images = predictions_for, None
    if categories is None:
        categories = check_category_entries(data, path, ("name", "isthing"))
        images = check_image_entries(data, path)

    annotations = entries(data, "annotations", str(path))
    unique(annotations, "image_id", f"{path}: annotations")
    for annotation in annotations:
        where = f"{path}: image {annotation['image_id']}"
        require_fields(annotation, ("file_name",), where)
        if images is not None and annotation["image_id"] not in images:
            raise LabkitError(
                f'{where}: has an annotation but is not in "images"'
                + id_type_hint(annotation["image_id"], images)
            )
        segments = entries(annotation, "segments_info", where)
        unique(segments, "id", f"{where}, segments_info")
        for segment in segments:
            _check_segment(segment, categories, where, predictions_for is not None)
    return data


def _check_is_panoptic(data: Any, path: str | Path) -> None:
    """Refuse other COCO files by name, before a field is checked."""
    wanted = 'needs the panoptic JSON, whose annotations have "file_name" and "segments_info"'
    annotations = data.get("annotations") if isinstance(data, dict) else data
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    if isinstance(first, dict) and "segments_info" not in first:
        if isinstance(data, list) and {"bbox", "segmentation"} & first.keys():
            raise LabkitError(f"{path}: a COCO detection results file (a list); {wanted}")
        if {"bbox", "segmentation"} & first.keys():
            raise LabkitError(
                f"{path}: a COCO detection file (one annotation per object); {wanted}"
            )
    if not isinstance(data, dict) or "annotations" not in data:
        raise LabkitError(f'{path}: not a panoptic JSON (no "annotations"); {wanted}')


def _check_segment(
    segment: dict[str, Any], categories: Collection[int], where: str, prediction: bool
) -> None:
    where = f"{where}, segment {segment['id']}"
    require_fields(
        segment, ("category_id",) if prediction else ("category_id", "area", "iscrowd"), where
    )
    # Some models number a prediction's segments from 0, and panopticapi counts them.
    lowest = 0 if prediction else 1
    if not lowest <= segment["id"] <= MAX_ID:
        raise LabkitError(f'{where}: "id" must be in {lowest}..{MAX_ID}')
    if segment["category_id"] not in categories:
        raise LabkitError(
            f'{where}: "category_id" {segment["category_id"]} is unknown; the ground truth\'s'
            f" categories are {listed(sorted(categories))}"
        )
    if not prediction and segment["area"] <= 0:
        raise LabkitError(f'{where}: "area" {segment["area"]} must be positive')
