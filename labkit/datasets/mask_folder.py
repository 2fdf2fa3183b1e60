"""A folder of images and a folder of masks as a data set: ``ds[i]`` is ``(image, target)``.

People keep masks in three ways, and each is recognised by what is there:

    MASKS/NAME.png              classes: a pixel's value or colour is its class
    MASKS/NAME.png              instances: 1000 x the class's value + the object's number, 16 bits,
                                as Cityscapes has it; stuff has its plain value
    MASKS/NAME/CLASS_1.png      objects: one picture each, white (or anything but 0) where it is

In a mask of classes, every connected region of a thing is an object: two that touch are one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.image_files import read_image
from labkit.datasets.mask_categories import MaskCategories
from labkit.datasets.targets import target_of
from labkit.errors import LabkitError
from labkit.structures import VOID, Categories, Panoptic, Segment, Target

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
INSTANCES = 1000
"""What a class's value is multiplied with in a mask of instances."""

Region = tuple[int, NDArray[np.bool_]]
"""A label, and where it is, ``(H, W)``."""


@dataclass(frozen=True)
class Pair:
    """An image and its masks: one file, or a folder with a file for each object."""

    image: Path
    masks: Path


class MaskFolder(Dataset[tuple[Tensor, Target]]):
    """Images with panoptic ground truth made of masks; ``image_id`` is the image's name.

    Args:
        images: folder of images.
        masks: folder of masks, with the images' names.
        classes: what masks write.

    Raises:
        LabkitError: a folder is missing or empty, or images and masks do not pair. Reading an item
            raises it for a damaged file, a size that differs, or a value or colour that stands for
            no class.
    """

    def __init__(self, images: Path, masks: Path, classes: MaskCategories) -> None:
        self.classes = classes
        self.categories: Categories = classes.categories
        self.pairs = _pairs(images, masks)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        pair = self.pairs[index]
        image = read_image(pair.image)
        size = (image.shape[1], image.shape[2])
        ids = np.full(size, VOID, np.int32)
        segments: list[Segment] = []
        stuff: dict[int, int] = {}  # one segment a class, however many files or numbers say so
        for label, region in self._regions(pair, size):
            if label not in stuff:
                segments.append(Segment(len(segments) + 1, label))
            identity = stuff.get(label, len(segments))
            if label in self.categories.stuff:
                stuff[label] = identity
            ids[region] = identity
        left = set(np.unique(ids).tolist())  # what later objects cover wholly is not there
        panoptic = Panoptic(torch.from_numpy(ids), [s for s in segments if s.id in left])
        return image, target_of(panoptic, self.categories, pair.image.stem)

    def regions(self, index: int) -> list[Region]:
        """What the masks of an image say, whole: objects may cover each other in files of their
        own, where the later name lies on top."""
        pair = self.pairs[index]
        _, height, width = read_image(pair.image).shape
        return self._regions(pair, (height, width))

    def _regions(self, pair: Pair, size: tuple[int, int]) -> list[Region]:
        if pair.masks.is_dir():
            return self._objects(pair.masks, size)
        mask = _read_mask(pair.masks, size, self.classes.colors)
        return self._classes(pair.masks, mask)

    def _objects(self, folder: Path, size: tuple[int, int]) -> list[Region]:
        found = []
        names = {category.name.lower(): i for i, category in enumerate(self.categories)}
        for path in _files(folder):
            name = re.sub(r"[ _-]*\d*$", "", path.stem).lower()
            if name not in names:
                raise LabkitError(
                    f"{path}: its name does not begin with a category's; there are"
                    f" {', '.join(self.categories.names)}"
                )
            found.append((names[name], _read_mask(path, size, False) != 0))
        # Stuff lies below things.
        return sorted(found, key=lambda region: region[0] in self.categories.things)

    def _classes(self, path: Path, mask: NDArray[np.int64]) -> list[Region]:
        """The regions of a mask of classes or of instances."""
        label_of = {_packed(code): label for label, code in enumerate(self.classes.codes)}
        void = {_packed(code) for code in self.classes.void}
        regions: list[Region] = []
        for value in np.unique(mask).tolist():
            where = mask == value
            if value in label_of:
                label = label_of[value]
                parts = _components(where) if label in self.categories.things else [where]
                regions += [(label, part) for part in parts]
            elif not self.classes.colors and value // INSTANCES in label_of:
                regions.append((label_of[value // INSTANCES], where))
            elif value not in void:
                y, x = np.argwhere(where)[0].tolist()
                shown = _unpacked(value) if self.classes.colors else value
                raise LabkitError(
                    f"{path}: {shown} at row {y}, column {x} ({int(where.sum())} pixels) stands for"
                    " no category; add it to the category file, or to its void"
                )
        return regions


def _pairs(images: Path, masks: Path) -> list[Pair]:
    for folder in (images, masks):
        if not folder.is_dir():
            raise LabkitError(f"{folder}: no such folder")
    found = _by_name(images, _files(images))
    if not found:
        raise LabkitError(f"{images}: no images in it ({', '.join(IMAGES)})")
    folders = [path for path in sorted(masks.iterdir()) if path.is_dir()]
    of_images = _by_name(masks, _files(masks) + folders)
    alone = sorted(found.keys() - of_images.keys())
    left = sorted(of_images.keys() - found.keys())
    if alone or left:
        what = [f"{len(alone)} images have no mask: {_some(alone)}"] if alone else []
        what += [f"{len(left)} masks have no image: {_some(left)}"] if left else []
        raise LabkitError(
            f"{images} and {masks} do not pair: {'; '.join(what)}. An image and its mask have the"
            " same name"
        )
    return [Pair(found[name], of_images[name]) for name in sorted(found)]


def _by_name(folder: Path, paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise LabkitError(
                f"{folder}: {found[name].name} and {path.name} have the same name; keep one"
            )
        found[name] = path
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and p.is_file())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_mask(path: Path, size: tuple[int, int], colors: bool) -> NDArray[np.int64]:
    """Values ``(H, W)`` as they are stored; colours as one number."""
    try:
        with Image.open(path) as picture:
            if colors:
                rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
                values = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
            elif picture.mode in ("RGB", "RGBA"):
                rgb = np.asarray(picture.convert("RGB"))
                if (rgb != rgb[..., :1]).any():
                    raise LabkitError(
                        f"{path}: is in colours, the category file has values; give the categories"
                        " color instead"
                    )
                values = rgb[..., 0].astype(np.int64)
            else:  # a palette's indices, grey of 8 or 16 bits, black and white
                values = np.asarray(picture).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for files that are no images
        raise LabkitError(f"{path}: the mask cannot be read ({error})") from None
    if values.shape != size:
        raise LabkitError(
            f"{path}: the mask is {values.shape[0]} x {values.shape[1]}, its image {size[0]} x"
            f" {size[1]} pixels (height x width)"
        )
    return values


def _components(where: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Regions whose pixels touch, corners included."""
    count, labels = cv2.connectedComponents(where.astype(np.uint8), connectivity=8)
    return [labels == i for i in range(1, count)]


def _packed(code: int | tuple[int, int, int]) -> int:
    return code if isinstance(code, int) else code[0] << 16 | code[1] << 8 | code[2]


def _unpacked(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255
