"""Annotations that are allowed and yet often mistakes: what a person should look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco_instances import CocoInstances
from labkit.datasets.coco_panoptic import CocoPanoptic
from labkit.datasets.mask_folder import MaskFolder, Region
from labkit.errors import LabkitError
from labkit.progress import progress_bar
from labkit.structures import IGNORE, Categories, Target

TINY = 10
"""Pixels below which a region is reported: a slip of the brush."""


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        image: its name or number.
        kind: "empty", "tiny", "touching", "overlapping", "covered", "unlabelled" or "damaged".
        text: what and where.
    """

    image: str
    kind: str
    text: str


def check(dataset: Any, num: int | None = None) -> Iterator[Finding]:
    """Look at every annotation of a data set.

    Args:
        dataset: any data set of labkit's; of a :class:`~labkit.datasets.mask_folder.MaskFolder`
            also what its files hide from one another.
        num: only the first so many images.
    """
    for index in progress_bar(range(num or len(dataset)), desc="check", unit="image"):
        try:
            _, target = dataset[index]
            if isinstance(dataset, MaskFolder):
                regions = dataset.regions(index)
            else:
                regions = _regions_of(target)
        except LabkitError as error:
            yield Finding(_name(dataset, index) or str(index), "damaged", str(error))
            continue
        name = _name(dataset, index) or str(target["image_id"])
        yield from findings(name, regions, target, dataset.categories)


def _name(dataset: Any, index: int) -> str | None:
    """The file of an image, where the data set is in one of COCO's formats."""
    if isinstance(dataset, CocoInstances | CocoPanoptic):
        return str(dataset.image_info(index)["file_name"])
    return None


def findings(
    image: str, regions: Sequence[Region], target: Target, categories: Categories
) -> Iterator[Finding]:
    """What is odd about one image.

    Args:
        image: for the findings.
        regions: labels and masks ``(H, W)``, whole where they are known whole.
        target: of the image.
        categories: of the labels.
    """
    if not regions:
        yield Finding(image, "empty", "nothing is labelled")
        return
    for label, mask in regions:
        area = int(mask.sum())
        if area == 0:
            yield Finding(image, "empty", f"a mask of {categories[label].name} without a pixel")
        elif area < TINY:
            y, x = np.argwhere(mask)[0].tolist()
            name = categories[label].name
            yield Finding(image, "tiny", f"{name} of {area} pixels at row {y}, column {x}")
    things = [(label, mask) for label, mask in regions if label in categories.things]
    for (a, first), (b, second) in itertools.combinations(things, 2):
        shared = int((first & second).sum())
        names = f"{categories[a].name} and {categories[b].name}"
        if shared:
            y, x = np.argwhere(first & second)[0].tolist()
            kind = "covered" if shared == int(first.sum()) else "overlapping"
            yield Finding(image, kind, f"{names} share {shared} pixels, row {y}, column {x}")
        elif a == b and (grown := _grown(first) & second).any():
            y, x = np.argwhere(grown)[0].tolist()
            yield Finding(
                image, "touching", f"two of {categories[a].name} at row {y}, column {x}: one?"
            )
    if "semantic" in target:
        share = float((target["semantic"] == IGNORE).float().mean())
        if share > 0.5:
            yield Finding(image, "unlabelled", f"{share:.0%} of the pixels have no class")


def _regions_of(target: Target) -> list[Region]:
    if "panoptic" in target:
        ids = target["panoptic"].ids.numpy()
        return [(s.label, ids == s.id) for s in target["panoptic"].segments if not s.iscrowd]
    labels = target["labels"].tolist()
    return [(label, m.numpy()) for label, m in zip(labels, target["masks"], strict=True)]


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and the pixels beside it, corners left out."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.dilate(mask.astype(np.uint8), cross).astype(bool)
