"""Reader for a folder of images and a folder of masks: ``ds[i]`` is ``(image, target)``.

Masks come in four layouts. All except the third are recognised from the files:

    MASKS/NAME.png              classes: a pixel's value or colour is its class
    MASKS/NAME.png              instances: 1000 x the class's value + the object's number, 16 bits,
                                as Cityscapes has it; stuff has its plain value
    MASKS/NAME.png              numbers: each value but 0 is an object of one class, which
                                ``instances_of`` names
    MASKS/NAME/CLASS_1.png      objects: one file each, white (or anything but 0) on the object

In a mask of classes, every connected region of a thing is an object; touching objects are one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.file_names import SUFFIXES, visible_files
from labkit.datasets.image_files import read_header, read_image
from labkit.datasets.masks.mask_categories import MaskCategories
from labkit.datasets.masks.mask_files import (
    TRANSPARENT,
    is_lossy,
    packed,
    read_codes,
    read_object,
    unpacked,
)
from labkit.datasets.targets import require_memory, target_from_panoptic
from labkit.errors import LabkitError
from labkit.structures import VOID, Categories, Panoptic, Segment, Target
from labkit.system.message_text import counted, listed

INSTANCES = 1000
"""Factor of a class's value in a mask of instances."""

MANY_STRANGE = 8
"""Number of unknown values above which smooth edges or resizing are the likely cause."""

Region = tuple[int, NDArray[np.bool_]]
"""A label and its mask ``(H, W)``."""


@dataclass(frozen=True)
class ImageMasks:
    """An image and its masks: one file, or a folder with a file for each object."""

    image: Path
    masks: Path


class MaskFolder(Dataset[tuple[Tensor, Target]]):
    """Images with panoptic ground truth from masks; ``image_id`` is the image's name.

    Args:
        images: folder of images.
        masks: folder of masks, with the images' names.
        classes: the content of the category file.
        suffix: suffix of the masks' names after the images' names.
        instances_of: name of the class of all objects, if masks number objects.

    Raises:
        LabkitError: a folder is missing or empty, images and masks do not pair, or ``instances_of``
            is not a thing class. Reading an item raises it for a damaged file, another size, or an
            unknown value or colour.
    """

    def __init__(
        self,
        images: Path,
        masks: Path,
        classes: MaskCategories,
        *,
        suffix: str = "",
        instances_of: str | None = None,
    ) -> None:
        self.classes = classes
        self.categories: Categories = classes.categories
        self.pairs = _pairs(images, masks, suffix)
        things = [self.categories[label].name for label in self.categories.things]
        if instances_of is not None and instances_of not in things:
            raise LabkitError(
                f"{classes.path}: instances of {instances_of!r}: it is not a thing of the category"
                f" file, which has {', '.join(things) or 'none'}"
            )
        self._numbered = None if instances_of is None else things.index(instances_of)
        self._label_of = {packed(code): label for label, code in enumerate(classes.codes)}
        self._void = {packed(code) for code in classes.void}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        pair = self.pairs[index]
        image = read_image(pair.image)
        size = (image.shape[1], image.shape[2])
        ids = np.full(size, VOID, np.int32)
        segments: list[Segment] = []
        stuff: dict[int, int] = {}  # one segment a class, even if several files or codes have it
        for label, region in self._regions(pair, size):
            if label not in stuff:
                segments.append(Segment(len(segments) + 1, label))
            identity = stuff.get(label, len(segments))
            if label in self.categories.stuff:
                stuff[label] = identity
            ids[region] = identity
        left = set(np.unique(ids).tolist())  # without segments that later ones cover completely
        panoptic = Panoptic(torch.from_numpy(ids), [s for s in segments if s.id in left])
        return image, target_from_panoptic(panoptic, self.categories, pair.image.stem)

    def regions(self, index: int) -> list[Region]:
        """All regions of an image with their covered parts; in files of one object, later names
        are on top."""
        pair = self.pairs[index]
        return self._regions(pair, read_header(pair.image)[0])

    def void_values(self, index: int) -> dict[int | tuple[int, int, int], int]:
        """Pixel counts of the codes that mean "no class" only by default, except 0 and black.

        255, for example, may as well be an object.
        """
        pair = self.pairs[index]
        if pair.masks.is_dir() or not self.classes.usual_void:
            return {}
        values, pixels = np.unique(
            self._codes(pair, read_header(pair.image)[0]), return_counts=True
        )
        return {
            unpacked(value, self.classes.colors): number
            for value, number in zip(values.tolist(), pixels.tolist(), strict=True)
            if value in self._void - {0}
        }

    def _regions(self, pair: ImageMasks, size: tuple[int, int]) -> list[Region]:
        if pair.masks.is_dir():
            return self._objects(pair, size)
        codes = self._codes(pair, size)
        if self._numbered is not None:
            return self._numbers(pair.masks, codes, self._numbered)
        return self._classes(pair.masks, codes)

    def _codes(self, pair: ImageMasks, size: tuple[int, int]) -> NDArray[np.int64]:
        labels, void = frozenset(self._label_of), frozenset(self._void)
        return read_codes(pair.masks, size, pair.image, self.classes.colors, labels, void)

    def _objects(self, pair: ImageMasks, size: tuple[int, int]) -> list[Region]:
        found = []
        names = {category.name.lower(): i for i, category in enumerate(self.categories)}
        paths = _files(pair.masks)
        require_memory(len(paths), size, str(pair.masks))
        for path in paths:
            name = re.sub(r"[ _-]*\d*$", "", path.stem).lower()
            if name not in names:
                raise LabkitError(
                    f"{path}: its name does not begin with a category's; there are"
                    f" {', '.join(self.categories.names)}"
                )
            found.append((names[name], read_object(path, size, pair.image)))
        # Stuff first: things are drawn over it.
        return sorted(found, key=lambda region: region[0] in self.categories.things)

    def _numbers(self, path: Path, codes: NDArray[np.int64], label: int) -> list[Region]:
        """Regions of a mask that numbers one class's objects; 0 is void unless it is a class."""
        named = set() if self.classes.usual_void else self._void
        present = [v for v in np.unique(codes).tolist() if v != TRANSPARENT and v not in named]
        require_memory(len(present), codes.shape, str(path))
        regions: list[Region] = []
        for value in present:
            if value:
                regions.append((label, codes == value))
            elif 0 in self._label_of:
                regions.insert(0, (self._label_of[0], codes == 0))
        return regions

    def _classes(self, path: Path, codes: NDArray[np.int64]) -> list[Region]:
        """Regions of a mask of classes or of instances."""
        regions: list[Region] = []
        for value in np.unique(codes).tolist():
            if value in self._void or value == TRANSPARENT:
                continue
            if value in self._label_of:
                label = self._label_of[value]
                where = codes == value
                parts = [where]
                if label in self.categories.things:
                    count, numbers = cv2.connectedComponents(
                        where.astype(np.uint8), connectivity=8
                    )  # corners touch, too
                    require_memory(len(regions) + count, where.shape, str(path))
                    parts = [numbers == i for i in range(1, count)]
                regions += [(label, part) for part in parts]
            elif self._is_instance(value):
                require_memory(len(regions) + 1, codes.shape, str(path))
                regions.append((self._label_of[value // INSTANCES], codes == value))
            else:
                raise LabkitError(f"{path}: {self._unknown(path, codes, value)}")
        return regions

    def _is_instance(self, value: int) -> bool:
        """Whether a code is 1000 times a class's value plus a number; class 0 has no instances."""
        return (
            not self.classes.colors and value >= INSTANCES and value // INSTANCES in self._label_of
        )

    def _unknown(self, path: Path, codes: NDArray[np.int64], value: int) -> str:
        """Message about a code that is neither a class nor void."""
        present = np.unique(codes)
        known = self._label_of.keys() | self._void | {TRANSPARENT}
        strange = [v for v in present.tolist() if v not in known and not self._is_instance(v)]
        y, x = np.argwhere(codes == value)[0].tolist()
        pixels = counted(int((codes == value).sum()), "pixel")
        shown = unpacked(value, self.classes.colors)
        first = f"{shown} at row {y}, column {x} ({pixels}) stands for no category"
        word = "colour" if self.classes.colors else "value"
        if is_lossy(path):
            return (
                f"{first}, and {counted(len(strange), word)} in all: the file is a JPEG, which"
                " changes values a little. Save masks as PNG from the program that drew them"
            )
        what = ", ".join(
            f"{code} ({category.name})"
            for code, category in zip(self.classes.codes[:6], self.categories, strict=False)
        )
        found = listed([unpacked(v, self.classes.colors) for v in present.tolist()], most=8)
        message = (
            f"{first}: the mask has the {word}s {found}, the category file {what}"
            f"{', ...' if len(self.classes.codes) > 6 else ''}."
        )
        if len(strange) > MANY_STRANGE:
            message += (
                f" So many strange {word}s ({len(strange)}) come from smooth edges, or from"
                " resizing that mixes neighbours: save the mask without"
            )
        else:
            message += " Correct the file that is wrong; what means no class goes into void"
        if self.categories.things and not self.classes.colors:
            name = self.categories[0].name
            message += (
                f"; or, if each number is an object of one class, say --instances-of {name!r}"
            )
        return message


def _pairs(images: Path, masks: Path, suffix: str) -> list[ImageMasks]:
    for folder in (images, masks):
        if not folder.is_dir():
            raise LabkitError(f"{folder}: no such folder")
    found = _by_name(images, _files(images), "")
    if not found:
        raise LabkitError(f"{images}: no images in it ({', '.join(SUFFIXES)})")
    folders = [path for path in visible_files(masks.iterdir()) if path.is_dir()]
    of_images = _by_name(masks, _files(masks) + folders, suffix)
    alone = sorted(found.keys() - of_images.keys())
    left = sorted(of_images.keys() - found.keys())
    if alone or left:
        what = [f"{counted(len(alone), 'image')} without a mask: {_some(alone)}"] if alone else []
        what += [f"{counted(len(left), 'mask')} without an image: {_some(left)}"] if left else []
        raise LabkitError(
            f"{images} and {masks} do not pair: {'; '.join(what)}. An image and its mask have the"
            f" same name{_common_suffix(alone, left)}"
        )
    return [ImageMasks(found[name], of_images[name]) for name in sorted(found)]


def _common_suffix(alone: list[str], left: list[str]) -> str:
    """Hint at ``--mask-suffix`` if all masks' names are image names plus one suffix."""
    more = {
        mask.removeprefix(image) for image in alone for mask in left[:1] if mask.startswith(image)
    }
    for suffix in sorted(more, key=len):
        if {f"{image}{suffix}" for image in alone} == set(left):
            return f", unless you say --mask-suffix {suffix}"
    return ""


def _by_name(folder: Path, paths: list[Path], suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        whole = path.name if path.is_dir() else path.stem
        # A file without the suffix keeps its name, so that it is missed and named.
        name = whole.removesuffix(suffix) or whole
        if name in found:
            raise LabkitError(
                f"{folder}: {found[name].name} and {path.name} have the same name; keep one"
            )
        found[name] = path
    return found


def _files(folder: Path) -> list[Path]:
    return visible_files(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
