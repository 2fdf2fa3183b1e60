"""Sanity checks of annotations: valid ones that are often mistakes, for a person to look at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from labkit.datasets.coco.box_area_checks import check_box_and_area
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.image_files import read_header
from labkit.datasets.masks.mask_folder import MaskFolder, Region
from labkit.errors import LabkitError
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import IGNORE, Categories, Target
from labkit.system.message_text import counted
from labkit.system.progress_bars import progress_bar

TINY = 10
"""Area in pixels below which a region is reported, for example a slip of the brush."""


@dataclass(frozen=True)
class AnnotationWarning:
    """A suspicious annotation.

    Attributes:
        image: name or number of the image.
        kind: "empty", "vanished", "tiny", "touching", "overlapping", "covered", "copied",
            "unlabelled", "box", "area", "turned" or "damaged".
        text: what is suspicious, and where.
    """

    image: str
    kind: str
    text: str


def check_annotations(dataset: Any, num: int | None = None) -> Iterator[AnnotationWarning]:
    """Check every annotation of a data set.

    Args:
        dataset: any labkit data set. For a
            :class:`~labkit.datasets.masks.mask_folder.MaskFolder` also overlaps between its files,
            for COCO's formats also the boxes and areas in the file.
        num: number of images to check, from the first; None for all.
    """
    count = len(dataset) if num is None else min(num, len(dataset))
    for index in progress_bar(range(count), desc="check", unit="image"):
        name = name_of(dataset, index)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the checks here report what readers warn of
                _, target = dataset[index]
            regions = (
                dataset.regions(index) if isinstance(dataset, MaskFolder) else _regions_of(target)
            )
        except LabkitError as error:
            yield AnnotationWarning(name or str(index), "damaged", str(error))
            continue
        name = name or str(target["image_id"])
        for kind, text in check_box_and_area(dataset, index, regions):
            yield AnnotationWarning(name, kind, text)
        if not regions:
            yield AnnotationWarning(name, "empty", f"nothing is labelled{_instead(dataset, index)}")
        else:
            yield from image_warnings(name, regions, target, dataset.categories)
        if turn := _turned(dataset, index):
            yield AnnotationWarning(
                name,
                "turned",
                f"the EXIF orientation {turn} turns the image, and its size does not tell whether"
                " the annotations belong to it upright: look at it with `labkit data show`",
            )


def name_of(dataset: Any, index: int) -> str | None:
    """File name of an image; None if the data set has none."""
    if isinstance(dataset, CocoInstances | CocoPanoptic):
        return str(dataset.image_info(index)["file_name"])
    return dataset.pairs[index].image.stem if isinstance(dataset, MaskFolder) else None


def _instead(dataset: Any, index: int) -> str:
    """Labelled content of an image without objects: crowds, pixels of unknown value."""
    if isinstance(dataset, CocoInstances):
        crowds = sum(bool(row.get("iscrowd")) for row in dataset.raw_annotations(index))
        if crowds:
            return f" but {counted(crowds, 'crowd')} (iscrowd=1), which training leaves out"
    if isinstance(dataset, MaskFolder):
        return "".join(
            f"; {value} in {counted(pixels, 'pixel')} belongs to no category"
            for value, pixels in dataset.void_values(index).items()
        )
    return ""


def _turned(dataset: Any, index: int) -> int:
    """EXIF orientation of an image whose size is the same before and after turning, else 0."""
    if isinstance(dataset, CocoInstances | CocoPanoptic):
        path = dataset.image_path(index)
    elif isinstance(dataset, MaskFolder):
        path = dataset.pairs[index].image
    else:
        return 0
    (height, width), turn = read_header(path)
    return turn if turn in (2, 3, 4) or (turn > 4 and height == width) else 0


def image_warnings(
    image: str, regions: Sequence[Region], target: Target, categories: Categories
) -> Iterator[AnnotationWarning]:
    """Warnings about the regions of one image.

    Args:
        image: name of the image, for the warnings.
        regions: at least one label and mask ``(H, W)``, including covered parts where known.
        target: the image's target.
        categories: the classes of the labels.
    """
    for label, mask in regions:
        area = int(mask.sum())
        if area == 0:
            text = f"the mask of {categories[label].name} has no pixel"
            yield AnnotationWarning(image, "vanished", text)
        elif area < TINY:
            y, x = np.argwhere(mask)[0].tolist()
            name = categories[label].name
            text = f"{name} of {counted(area, 'pixel')} at row {y}, column {x}"
            yield AnnotationWarning(image, "tiny", text)
    things = [(label, mask) for label, mask in regions if label in categories.things and mask.any()]
    copies: dict[tuple[int, bytes], list[Region]] = {}
    for label, mask in things:
        copies.setdefault((label, mask.tobytes()), []).append((label, mask))
    for (label, _), same in copies.items():
        if len(same) > 1:
            y, x = np.argwhere(same[0][1])[0].tolist()
            text = (
                f"{len(same)} of {categories[label].name} have the same mask, row {y}, column {x}"
            )
            yield AnnotationWarning(image, "copied", text)
    # One of each: their pairs would be many more.
    yield from _neighbours(image, [same[0] for same in copies.values()], categories)
    # Without stuff nobody labels the background.
    if "semantic" in target and categories.stuff:
        share = float((target["semantic"] == IGNORE).float().mean())
        if share > 0.5:
            yield AnnotationWarning(image, "unlabelled", f"{share:.0%} of the pixels have no class")


def _neighbours(
    image: str, things: Sequence[Region], categories: Categories
) -> Iterator[AnnotationWarning]:
    """Warnings about objects that share pixels, and about adjacent objects of one class."""
    if not things:
        return
    masks = torch.from_numpy(np.stack([mask for _, mask in things]))
    x1, y1, x2, y2 = masks_to_edge_boxes(masks).numpy().astype(int).T
    for i, (a, first) in enumerate(things):
        # Boxes that are a pixel apart or less.
        near = (x1 <= x2[i]) & (x2 >= x1[i]) & (y1 <= y2[i]) & (y2 >= y1[i])
        window = slice(max(y1[i] - 1, 0), y2[i] + 1), slice(max(x1[i] - 1, 0), x2[i] + 1)
        here = first[window]
        for j in (np.flatnonzero(near[i + 1 :]) + i + 1).tolist():
            b, second = things[j][0], things[j][1][window]
            shared = int((here & second).sum())
            names = f"{categories[a].name} and {categories[b].name}"
            if shared:
                y, x = np.argwhere(here & second)[0] + (window[0].start, window[1].start)
                kind = "covered" if shared == int(first.sum()) else "overlapping"
                text = f"{names} share {counted(shared, 'pixel')}, row {y}, column {x}"
                yield AnnotationWarning(image, kind, text)
            elif a == b and (grown := _grown(here) & second).any():
                y, x = np.argwhere(grown)[0] + (window[0].start, window[1].start)
                text = f"two of {categories[a].name} at row {y}, column {x}: one?"
                yield AnnotationWarning(image, "touching", text)


def _regions_of(target: Target) -> list[Region]:
    if "panoptic" in target:
        ids = target["panoptic"].ids.numpy()
        return [(s.label, ids == s.id) for s in target["panoptic"].segments if not s.iscrowd]
    labels = target["labels"].tolist()
    return [(label, m.numpy()) for label, m in zip(labels, target["masks"], strict=True)]


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilate a mask by one pixel, without the corners."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.dilate(mask.astype(np.uint8), cross).astype(bool)
