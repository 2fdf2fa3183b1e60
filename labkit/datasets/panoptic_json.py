"""The JSON of the COCO panoptic format: reading it with every field checked, and writing it.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.files import whole

MAX_ID = 256**3 - 1
"""The largest segment id that the three bytes of a colour hold."""

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((int,), "an integer"),
    "image_id": ((int, str), "an integer or a string"),  # Cityscapes names its images by strings
    "category_id": ((int,), "an integer"),
    "name": ((str,), "a string"),
    "file_name": ((str,), "a string"),
    "height": ((int,), "an integer"),
    "width": ((int,), "an integer"),
    "area": ((int, float), "a number"),
    "iscrowd": ((int, bool), "0 or 1"),
    "isthing": ((int, bool), "0 or 1"),
    "images": ((list,), "a list"),
    "categories": ((list,), "a list"),
    "annotations": ((list,), "a list"),
    "segments_info": ((list,), "a list"),
}


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        LabkitError: the file cannot be written.
    """
    with whole(Path(path)) as temporary:
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
        The file's content, unchanged. Ground truth has the lists ``images``, ``categories`` and
        ``annotations``; an image may be without annotation.

    Raises:
        LabkitError: no JSON, no panoptic JSON, a field is missing or of wrong type, an image,
            category or segment id occurs twice, or a category or image is unknown.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise LabkitError(f"{path}: cannot read the JSON: {error.strerror}") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise LabkitError(f"{path}: not a JSON file: {error}") from None
    _check_is_panoptic(data, path)

    categories, images = predictions_for, None
    if categories is None:
        categories = _unique(_entries(data, "categories", str(path)), "id", f"{path}: categories")
        for i, category in enumerate(data["categories"]):
            _require(category, ("name", "isthing"), f"{path}: categories[{i}]")
        images = _unique(_entries(data, "images", str(path)), "id", f"{path}: images", "image_id")
        for i, image in enumerate(data["images"]):
            _require(image, ("file_name", "height", "width"), f"{path}: images[{i}]")

    annotations = _entries(data, "annotations", str(path))
    _unique(annotations, "image_id", f"{path}: annotations")
    for annotation in annotations:
        where = f"{path}: image {annotation['image_id']}"
        _require(annotation, ("file_name",), where)
        if images is not None and annotation["image_id"] not in images:
            raise LabkitError(f'{where}: has an annotation but is not in "images"')
        segments = _entries(annotation, "segments_info", where)
        _unique(segments, "id", f"{where}, segments_info")
        for segment in segments:
            _check_segment(segment, categories, where, predictions_for is not None)
    return data


def _check_is_panoptic(data: Any, path: str | Path) -> None:
    """Tell the other COCO files apart before complaining about a field."""
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


def _entries(owner: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The list ``owner[key]``, every entry an object."""
    _require(owner, (key,), where)
    for i, entry in enumerate(owner[key]):
        if type(entry) is not dict:
            raise LabkitError(f"{where}, {key}[{i}]: is {entry!r:.60}, it must be an object")
    return owner[key]


def _require(entry: dict[str, Any], keys: Iterable[str], where: str, kind: str = "") -> None:
    for key in keys:
        types, description = _TYPES[kind or key]
        value = entry.get(key)
        # By type, not isinstance: True is an int for isinstance and no id.
        if type(value) not in types or (bool in types and value not in (0, 1)):
            found = f"is {value!r:.60}" if key in entry else "is missing"
            raise LabkitError(f'{where}: "{key}" {found}; it must be {description}')


def _unique(entries: list[dict[str, Any]], key: str, where: str, kind: str = "") -> set[Any]:
    """The values of ``key``, which must differ."""
    seen: set[Any] = set()
    for i, entry in enumerate(entries):
        _require(entry, (key,), f"{where}[{i}]", kind)
        if entry[key] in seen:
            raise LabkitError(f'{where}[{i}]: "{key}" {entry[key]} occurs twice; ids must differ')
        seen.add(entry[key])
    return seen


def _check_segment(
    segment: dict[str, Any], categories: Collection[int], where: str, prediction: bool
) -> None:
    where = f"{where}, segment {segment['id']}"
    _require(segment, ("category_id",) if prediction else ("category_id", "area", "iscrowd"), where)
    # Some models number a prediction's segments from 0, and panopticapi counts them.
    lowest = 0 if prediction else 1
    if not lowest <= segment["id"] <= MAX_ID:
        raise LabkitError(f'{where}: "id" must be in {lowest}..{MAX_ID}')
    if segment["category_id"] not in categories:
        raise LabkitError(f'{where}: "category_id" {segment["category_id"]} is unknown')
    if not prediction and segment["area"] <= 0:
        raise LabkitError(f'{where}: "area" {segment["area"]} must be positive')
