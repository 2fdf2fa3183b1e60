"""Reader for COCO's instance format: one JSON with an annotation per object, and the images.

Source: https://cocodataset.org/#format-data, "Object Detection". Masks are polygons or run-length
codes; pycocotools makes pixels of both.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.coco.layout import image_folder, split_file
from labkit.datasets.coco.segmentation_to_rle import to_rle
from labkit.datasets.file_names import resolve_file_name
from labkit.datasets.image_files import read_image
from labkit.datasets.json_fields import (
    check_category_entries,
    check_image_entries,
    entries,
    id_type_hint,
    json_excerpt,
    read_json_file,
    require_fields,
)
from labkit.datasets.targets import require_memory
from labkit.errors import LabkitError
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import Categories, Target
from labkit.system.message_text import counted

Annotation = dict[str, Any]
FARTHEST = 1e9
"""Limit of a box's coordinates."""
MANY_CROWDS = 0.1
"""Share of crowds above which a warning is shown; COCO has one in a hundred annotations."""


class CocoInstances(Dataset[tuple[Tensor, Target]]):
    """COCO instances: ``ds[i]`` is ``(image, target)`` with ``image`` ``(3, H, W)`` uint8 RGB.

    Targets have no semantic or panoptic map. Their objects are the annotations that are not a
    crowd, whose box has an area and whose mask has a pixel. Boxes are computed from the masks, so
    they stay correct under every transform. :meth:`annotations` returns all annotations as in the
    file, for COCO's own evaluation.

    Args:
        json_path: the JSON.
        image_dir: folder of the images; by default the one named as COCO does, ``val2017`` beside
            the folder of ``annotations/instances_val2017.json``.

    Raises:
        LabkitError: the JSON is refused (the message says where and why: a missing field, an
            unknown category or image, a box with a negative side), or the folder does not exist.
            Reading an item raises it for a missing or damaged image, another size, or a damaged
            mask.
    """

    def __init__(self, json_path: str | Path, image_dir: str | Path | None = None) -> None:
        self.path = Path(json_path)
        self.image_dir = Path(image_dir or image_folder(self.path, "instances"))
        data = _read(self.path)
        if not self.image_dir.is_dir():
            raise LabkitError(f"{self.path}: no folder {self.image_dir}; say image_dir=...")
        self.categories = Categories.from_coco(data["categories"])
        self._images: list[dict[str, Any]] = data["images"]
        self._objects: dict[int | str, list[Annotation]] = {i["id"]: [] for i in self._images}
        for number, annotation in enumerate(data["annotations"]):
            _check(annotation, number, self._objects, self.categories, self.path)
            self._objects[annotation["image_id"]].append(annotation)
        _warn_of_left_out(data["annotations"], self.path)

    @classmethod
    def from_folder(cls, root: str | Path, split: str | None = None) -> CocoInstances:
        """Open a folder in COCO's layout, which ``labkit data export`` also writes.

        Args:
            root: holds ``annotations/instances_SPLIT.json`` and ``SPLIT/`` with the images.
            split: as :func:`~labkit.datasets.coco.layout.split_file` takes it.

        Raises:
            LabkitError: no split has this name, or several fit.
        """
        return cls(split_file(Path(root), "instances", split))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        info = self._images[index]
        image = read_image(self.image_path(index), self._size(index))
        rows = [a for a in self.annotations(index) if not a["iscrowd"] and min(a["bbox"][2:]) > 0]
        seen = [row for row in rows if coco_mask.area(row["segmentation"]) > 0]
        for row in rows:
            if not coco_mask.area(row["segmentation"]):
                warnings.warn(
                    f"{_where(row, self.path)}: the mask has no pixel in the image and is left out",
                    stacklevel=2,
                )
        require_memory(len(seen), image.shape[1:], f"{self.path}: image {info['id']}")
        decoded = np.zeros((len(seen), *image.shape[1:]), np.bool_)
        for mask, row in zip(decoded, seen, strict=True):
            mask[:] = coco_mask.decode(row["segmentation"])
        masks = torch.from_numpy(decoded)
        labels = [self.categories.label(row["category_id"]) for row in seen]
        return image, {
            "image_id": info["id"],
            "boxes": masks_to_edge_boxes(masks),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": masks,
        }

    def image_path(self, index: int) -> Path:
        """Path of an image."""
        return resolve_file_name(self.image_dir, self._images[index]["file_name"])

    @property
    def num_objects(self) -> int:
        """Number of annotations that are not crowds and have a box with an area."""
        return sum(
            not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0
            for annotations in self._objects.values()
            for annotation in annotations
        )

    @property
    def only_polygons(self) -> bool:
        """Whether all objects except crowds are written as polygons."""
        return all(
            isinstance(annotation["segmentation"], list)
            for annotations in self._objects.values()
            for annotation in annotations
            if not annotation.get("iscrowd")
        )

    def image_info(self, index: int) -> dict[str, Any]:
        """Entry of ``images`` of an item."""
        return self._images[index]

    def annotations(self, index: int) -> list[Annotation]:
        """Annotations of an item as in the file, crowds included, with masks as compressed RLE.

        Raises:
            LabkitError: a mask is damaged or does not fit its image.
        """
        size = self._size(index)
        return [
            {"iscrowd": 0, **a, "segmentation": self._rle(a, size)}
            for a in self.raw_annotations(index)
        ]

    def raw_annotations(self, index: int) -> list[Annotation]:
        """Annotations of an item as in the file, masks too: polygons or run-length codes."""
        return self._objects[self._images[index]["id"]]

    def _size(self, index: int) -> tuple[int, int]:
        info = self._images[index]
        return info["height"], info["width"]

    def _rle(self, annotation: Annotation, size: tuple[int, int]) -> dict[str, Any]:
        try:
            return to_rle(annotation["segmentation"], size)
        except ValueError as error:
            raise LabkitError(f"{_where(annotation, self.path)}: segmentation: {error}") from None


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    data = read_json_file(path)
    for name in ("images", "categories", "annotations"):
        if not isinstance(data, dict) or not isinstance(data.get(name), list):
            raise LabkitError(
                f'{path}: not a COCO instance JSON: it needs the lists "images", "categories" and'
                f' "annotations", and "{name}" is none'
            )
    check_category_entries(data, path)
    check_image_entries(data, path)
    entries(data, "annotations", str(path))
    return data


def _check(
    annotation: Annotation,
    number: int,
    images: dict[int | str, list[Annotation]],
    categories: Categories,
    path: Path,
) -> None:
    """Check an entry of ``annotations`` except its mask, which is checked with its image."""
    require_fields(annotation, ("image_id",), f"{path}: annotations[{number}]")
    where = _where(annotation, path)
    if annotation["image_id"] not in images:
        raise LabkitError(
            f'{where}: this image is not in "images"' + id_type_hint(annotation["image_id"], images)
        )
    category_id = annotation.get("category_id")
    if not isinstance(category_id, str):
        require_fields(annotation, ("category_id",), where)
    if not categories.has_id(annotation["category_id"]):
        raise LabkitError(
            f'{where}: category_id {json.dumps(category_id)} is not in "categories"'
            + id_type_hint(category_id, [category.id for category in categories])
        )
    require_fields(annotation, ("area", "iscrowd") if "iscrowd" in annotation else ("area",), where)
    if annotation["area"] < 0:
        raise LabkitError(f'{where}: "area" {annotation["area"]} must not be negative')
    for field in ("bbox", "segmentation"):
        if field not in annotation:
            raise LabkitError(f'{where}: "{field}" is missing')
    box: Any = annotation["bbox"]
    numbers = isinstance(box, list) and all(type(v) in (int, float) for v in box)
    if not numbers or len(box) != 4 or not all(abs(v) < FARTHEST for v in box):  # nan, too
        raise LabkitError(
            f"{where}: bbox {json_excerpt(box)} must be four numbers x, y, width, height"
        )
    if min(box[2:]) < 0:
        raise LabkitError(f"{where}: bbox {box} has a negative side; it is x, y, width, height")


def _warn_of_left_out(annotations: list[Annotation], path: Path) -> None:
    """Warn of annotations that training leaves out: many crowds, and boxes without area."""
    crowds = [a for a in annotations if a.get("iscrowd")]
    if len(crowds) > MANY_CROWDS * len(annotations):
        warnings.warn(
            f"{path}: {len(crowds)} of {counted(len(annotations), 'annotation')} are iscrowd=1 and"
            " are left out of training (a crowd is a region of several objects without own masks;"
            " some programs write 1 for every painted mask: then write 0)",
            stacklevel=3,
        )
    # COCO's own train2017 has two of them, so they are no reason to refuse a file.
    flat = [a for a in annotations if min(a["bbox"][2:]) == 0]
    if flat:
        are = "has a box" if len(flat) == 1 else "have boxes"
        left = "is" if len(flat) == 1 else "are"
        warnings.warn(
            f"{path}: {counted(len(flat), 'object')} {are} without area and {left} left out of the"
            f" targets; the first is in image {flat[0]['image_id']}",
            stacklevel=3,
        )


def _where(annotation: Annotation, path: Path) -> str:
    identity = annotation.get("id")
    known = identity if type(identity) in (int, str) else "without id"
    return f"{path}: image {annotation['image_id']}, annotation {known}"
