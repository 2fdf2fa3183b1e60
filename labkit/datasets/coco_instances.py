"""Reader for COCO's instance format: one JSON with an annotation per object, and the images.

Source: https://cocodataset.org/#format-data, "Object Detection". Masks are polygons or run-length
codes; pycocotools makes pixels of both.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.image_files import read_image
from labkit.datasets.targets import boxes_of
from labkit.errors import LabkitError
from labkit.structures import Categories, Target

Annotation = dict[str, Any]


class CocoInstances(Dataset[tuple[Tensor, Target]]):
    """Images with objects: ``ds[i]`` is ``(image, target)``, image ``(3, H, W)`` uint8 RGB.

    The targets have no semantic or panoptic map. Their objects are those that are no crowd, whose
    box has an area and whose mask at least one pixel; boxes are those of the masks, so they stay
    right under every transform. :meth:`annotations` has everything as the file says it, for COCO's
    own numbers.

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
        self.image_dir = Path(
            image_dir or self.path.parent.parent / self.path.stem.removeprefix("instances_")
        )
        data = _read(self.path)
        if not self.image_dir.is_dir():
            raise LabkitError(f"{self.path}: no folder {self.image_dir}; say image_dir=...")
        self.categories = Categories.from_coco(data["categories"])
        self._images: list[dict[str, Any]] = data["images"]
        self._objects: dict[int | str, list[Annotation]] = {i["id"]: [] for i in self._images}
        if len(self._objects) < len(self._images):
            raise LabkitError(f"{self.path}: images: ids must differ")
        for annotation in data["annotations"]:
            _check(annotation, self._objects, self.categories, self.path)
            self._objects[annotation["image_id"]].append(annotation)
        _warn_of_flat([a for a in data["annotations"] if min(a["bbox"][2:]) == 0], self.path)
        self._sizes = {i["id"]: (i["height"], i["width"]) for i in self._images}

    @classmethod
    def from_folder(cls, root: str | Path, split: str) -> CocoInstances:
        """From COCO's layout, which ``labkit data export`` writes too.

        Args:
            root: holds ``annotations/instances_SPLIT.json`` and ``SPLIT/`` with the images.
            split: for example ``val2017``; ``val`` will do where only one begins so.

        Raises:
            LabkitError: there is no such split, or several.
        """
        return cls(split_file(Path(root), "instances", split))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        info = self._images[index]
        image = read_image(self.image_dir / info["file_name"], self._sizes[info["id"]])
        rows = [
            a for a in self.annotations(info["id"]) if not a["iscrowd"] and min(a["bbox"][2:]) > 0
        ]
        masks = np.zeros((len(rows), *image.shape[1:]), np.bool_)
        if rows:
            codes = [row["segmentation"] for row in rows]
            masks = coco_mask.decode(codes).transpose(2, 0, 1).astype(np.bool_)
        seen: NDArray[np.bool_] = np.any(masks, axis=(1, 2))
        labels = np.array([self.categories.label(row["category_id"]) for row in rows], np.int64)
        masks = np.ascontiguousarray(masks[seen])
        return image, {
            "image_id": info["id"],
            "boxes": torch.from_numpy(boxes_of(masks)),
            "labels": torch.from_numpy(labels[seen]),
            "masks": torch.from_numpy(masks),
        }

    @property
    def polygons(self) -> bool:
        """Whether all objects that are no crowds are written as polygons."""
        return all(
            isinstance(annotation["segmentation"], list)
            for annotations in self._objects.values()
            for annotation in annotations
            if not annotation.get("iscrowd")
        )

    def image_info(self, index: int) -> dict[str, Any]:
        """The entry of ``images`` that an item is made of."""
        return self._images[index]

    def annotations(self, image_id: int | str) -> list[Annotation]:
        """An image's annotations as the file has them, crowds included, masks as compressed
        run-length codes.

        Raises:
            LabkitError: a mask is damaged or does not fit its image.
        """
        size = self._sizes[image_id]
        return [
            {"iscrowd": 0, **a, "segmentation": self._code(a, size)}
            for a in self._objects[image_id]
        ]

    def _code(self, annotation: Annotation, size: tuple[int, int]) -> dict[str, Any]:
        shape, where = annotation["segmentation"], _where(annotation, self.path)
        try:
            if isinstance(shape, list):
                if not shape or any(len(p) < 6 or len(p) % 2 for p in shape):
                    raise ValueError("a polygon needs at least three points x, y")
                # pycocotools walks every pixel of the outline: it would run out of memory or crash.
                far = 10 * max(size)
                if not all(abs(float(v)) <= far for p in shape for v in p):
                    raise ValueError("a polygon has a corner that is no number or far outside")
                code = coco_mask.merge(coco_mask.frPyObjects(shape, *size))
            else:
                if tuple(shape["size"]) != size:
                    raise ValueError(f"its size is {shape['size']}, the image's {list(size)}")
                code = shape
                if isinstance(shape["counts"], list):
                    if sum(shape["counts"]) != size[0] * size[1] or min(shape["counts"]) < 0:
                        raise ValueError("its run lengths do not add up to the image")
                    code = coco_mask.frPyObjects(shape, *size)
                else:
                    _require_whole(shape["counts"], size)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabkitError(f"{where}: segmentation: {error}") from None
        return dict(code)


def _require_whole(counts: str | bytes, size: tuple[int, int]) -> None:
    """Refuse a compressed code whose runs are not exactly the image's pixels.

    pycocotools fills what a short one leaves out with whatever was in memory. Each run is written
    in characters of five bits, low ones first, a sixth bit meaning that another follows; from the
    fourth on it is the difference to the last run but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or sum(runs) != size[0] * size[1] or min(runs) < 0:
        raise ValueError("its run lengths do not add up to the image; the code is damaged")


def split_file(root: Path, kind: str, split: str) -> Path:
    """The JSON ``annotations/KIND_SPLIT.json``, or the only one whose split begins with ``split``.

    Raises:
        LabkitError: there is none, or there are several.
    """
    found = {
        path.stem.removeprefix(f"{kind}_"): path
        for path in sorted((root / "annotations").glob(f"{kind}_*.json"))
    }
    if not found:
        raise LabkitError(f"{root}: no annotations/{kind}_*.json in it")
    close = [split] if split in found else [name for name in found if name.startswith(split)]
    if len(close) != 1:
        problem = "several splits" if close else "no split"
        raise LabkitError(f"{root}: {problem} {split!r}; it has {', '.join(found)}")
    return found[close[0]]


_FIELDS: dict[str, tuple[str, ...]] = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox", "area", "segmentation"),
}


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise LabkitError(f"{path}: cannot read the JSON: {error.strerror}") from None
    except ValueError as error:
        raise LabkitError(f"{path}: not a JSON file: {error}") from None
    for name, fields in _FIELDS.items():
        entries = data.get(name) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise LabkitError(
                f'{path}: not a COCO instance JSON: it needs the lists "images", "categories" and'
                f' "annotations", and "{name}" is none'
            )
        for number, entry in enumerate(entries):
            missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise LabkitError(f'{path}: {name}[{number}]: "{missing[0]}" is missing')
    return data


def _check(
    annotation: Annotation,
    images: dict[int | str, list[Annotation]],
    categories: Categories,
    path: Path,
) -> None:
    where = _where(annotation, path)
    if annotation["image_id"] not in images:
        raise LabkitError(f'{where}: this image is not in "images"')
    if annotation["category_id"] not in categories:
        raise LabkitError(
            f'{where}: category_id {annotation["category_id"]} is not in "categories"'
        )
    box: Sequence[Any] = annotation["bbox"]
    numbers = isinstance(box, list) and all(isinstance(v, int | float) for v in box)
    if not numbers or len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise LabkitError(f"{where}: bbox {box} must be four numbers x, y, width, height")
    if min(box[2:]) < 0:
        raise LabkitError(f"{where}: bbox {box} has a negative side; it is x, y, width, height")


def _warn_of_flat(flat: list[Annotation], path: Path) -> None:
    # COCO's own train2017 has two of them, so they are no reason to refuse a file.
    if flat:
        warnings.warn(
            f"{path}: {len(flat)} objects have boxes without area and are left out of the targets;"
            f" the first is in image {flat[0]['image_id']}",
            stacklevel=3,
        )


def _where(annotation: Annotation, path: Path) -> str:
    return (
        f"{path}: image {annotation['image_id']}, annotation {annotation.get('id', 'without id')}"
    )
