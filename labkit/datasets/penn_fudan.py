"""Reader for the Penn-Fudan pedestrian database, in its archive's own layout.

L. Wang, J. Shi, G. Song and I. Shen, "Object Detection Combining Recognition and Segmentation",
ACCV 2007. 170 photographs of streets. A mask PNG holds the number of each pixel's pedestrian, 0 for
none. Unlike the paper, the release also labels small and mostly hidden people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.file_names import visible_files
from labkit.datasets.image_files import open_image, read_image, upright
from labkit.datasets.targets import target_from_panoptic
from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Panoptic, Segment, Target
from labkit.system.message_text import counted

Split = Literal["train", "val"]

HELD_OUT = 30
"""Number of validation images: the last ones in the order of their names."""


class PennFudan(Dataset[tuple[Tensor, Target]]):
    """Penn-Fudan: ``ds[i]`` is ``(image, target)`` with ``image`` ``(3, H, W)`` uint8 RGB.

    Boxes are computed from the masks. The text files in ``Annotation`` have the same boxes, counted
    from 1 and including the last pixel; some of them are a few pixels wider.

    Args:
        root: the archive's folder ``PennFudanPed`` with ``PNGImages`` and ``PedMasks``.
        split: ``train`` or ``val``.

    Raises:
        LabkitError: the folder has no or too few images, or an image has no mask. Reading an
            item raises it for a damaged file and for a mask that does not fit its image.
    """

    categories = Categories([Category(1, "pedestrian", True), Category(2, "background", False)])

    def __init__(self, root: str | Path, split: Split = "train") -> None:
        if split not in get_args(Split):
            raise LabkitError(f"PennFudan: split {split!r} is not one of train, val")
        self.root = Path(root)
        images = visible_files((self.root / "PNGImages").glob("*.png"))
        if not images:
            raise LabkitError(
                f"{self.root}: no PNGImages/*.png in it; it must be the folder PennFudanPed that"
                " `labkit data get penn-fudan` unpacks"
            )
        for image in images:
            if not self._mask_path(image).is_file():
                raise LabkitError(f"{self._mask_path(image)}: missing, but {image} is there")
        if len(images) <= HELD_OUT:
            raise LabkitError(
                f"{self.root}: {counted(len(images), 'image')}; the last {HELD_OUT} are held"
                " out, so that none would be left to train on"
            )
        numbered = list(enumerate(images))
        self._items = numbered[-HELD_OUT:] if split == "val" else numbered[:-HELD_OUT]

    def _mask_path(self, image: Path) -> Path:
        return self.root / "PedMasks" / f"{image.stem}_mask.png"

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Read an image and its target; ``image_id`` is its index among all the folder's images."""
        image_id, path = self._items[index]
        image = read_image(path)
        mask_path = self._mask_path(path)
        with open_image(mask_path, "mask") as file:
            numbers = np.array(upright(file))
        if numbers.dtype != np.uint8 or numbers.shape != tuple(image.shape[1:]):
            raise LabkitError(
                f"{mask_path}: the mask is {' x '.join(map(str, numbers.shape))} {numbers.dtype},"
                f" it must be like its image {image.shape[1]} x {image.shape[2]} (height x width)"
                " with one byte a pixel"
            )
        return image, target_from_panoptic(_panoptic(numbers), self.categories, image_id)


def _panoptic(numbers: NDArray[np.uint8]) -> Panoptic:
    """Segments 1 to N are the pedestrians in the mask's order, N + 1 is the background."""
    present = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    people = present[present > 0]
    ids = np.full(256, len(people) + 1, np.int32)  # by number
    ids[people] = np.arange(1, len(people) + 1)
    segments = [Segment(i, 0) for i in range(1, len(people) + 1)]
    if 0 in present:
        segments.append(Segment(len(people) + 1, 1))
    return Panoptic(torch.from_numpy(ids[numbers]), segments)
