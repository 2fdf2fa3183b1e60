"""Images to predict: where each is read, and the id that its results carry.

Results are compared with annotations by id, and two images never share one. Images by
themselves have their names for ids, or the numbers that these are, as COCO's; of a data set its own
ids count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.image_files import read_image
from labkit.errors import LabkitError
from labkit.system.message_text import counted

LONGEST_NUMBER = 18
"""Digits of an id that every program holds."""


@dataclass(frozen=True)
class ImageEntry:
    """One image to predict.

    Attributes:
        file_name: its name, in a data set as its annotations write it.
        image_id: of its results.
        path: its file; None where the data set draws it.
        read: gives it, ``(3, H, W)`` uint8 RGB.
    """

    file_name: str
    image_id: int | str
    path: Path | None
    read: Callable[[], Tensor]


def from_files(paths: Sequence[Path]) -> list[ImageEntry]:
    """Images by themselves.

    Raises:
        LabkitError: two of them would have one id.
    """
    seen: dict[int | str, Path] = {}
    for path in paths:
        number = path.stem.isdecimal() and len(path.stem) <= LONGEST_NUMBER
        image_id = int(path.stem) if number else path.stem
        if image_id in seen:
            raise LabkitError(
                f"{seen[image_id]} and {path} would both be the image {image_id} in the results;"
                " predict them one by one into two folders, or say --data with the data set whose"
                " images they are"
            )
        seen[image_id] = path
    return [ImageEntry(path.name, id_, path, _reader(path)) for id_, path in seen.items()]


def from_dataset(dataset: Any, paths: Sequence[Path], limit: int | None) -> list[ImageEntry]:
    """Images of a data set, with its ids.

    Args:
        dataset: any data set of labkit's.
        paths: some of its files; without any, all of them.
        limit: only the first so many.

    Raises:
        LabkitError: there are none, or a file is not of this data set.
    """
    if not paths:
        count = len(dataset) if limit is None else min(limit, len(dataset))
        if not count:
            raise LabkitError("the data set has no images in this split")
        return [_item(dataset, index) for index in range(count)]
    if not isinstance(dataset, CocoInstances | CocoPanoptic):
        raise LabkitError("this data set has no files to choose from: name --data alone")
    index_of = {dataset.image_path(index).resolve(): index for index in range(len(dataset))}
    found = []
    for path in paths[:limit]:
        if path.resolve() not in index_of:
            raise LabkitError(
                f"{path}: is not among the {counted(len(dataset), 'image')} of this data set in"
                f" {dataset.image_dir}"
            )
        found.append(_item(dataset, index_of[path.resolve()]))
    return found


def drawing_names(listed: Sequence[ImageEntry]) -> list[str]:
    """Names of files, one for each image: those of the images, with their folders where two
    are the same."""
    plain = [PurePath(one.file_name.replace("\\", "/")).with_suffix("").parts for one in listed]
    names = [parts[-1] for parts in plain]
    if len(set(names)) < len(names):
        names = ["_".join(part.strip("/.:") for part in parts) for parts in plain]
    if len(set(names)) < len(names):  # a.png and a.jpg
        names = [f"{name}_{number}" for number, name in enumerate(names, 1)]
    return names


def _item(dataset: Any, index: int) -> ImageEntry:
    if isinstance(dataset, CocoInstances | CocoPanoptic):
        info = dataset.image_info(index)
        path = dataset.image_path(index)
        return ImageEntry(info["file_name"], info["id"], path, _reader(path))
    image_id = dataset[index][1]["image_id"]
    # Read again when its turn comes: all images at once may not fit into memory.
    return ImageEntry(str(image_id), image_id, None, lambda: dataset[index][0])


def _reader(path: Path) -> Callable[[], Tensor]:
    return lambda: read_image(path)
