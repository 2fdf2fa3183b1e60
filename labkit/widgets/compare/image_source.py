"""Loading the image of a comparison: from a data set with ground truth, a file or an upload."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.image_files import read_image
from labkit.datasets.registry import open_dataset
from labkit.errors import LabkitError
from labkit.metrics.coco_annotations import Annotation
from labkit.structures import Categories, Target

MOST_PIXELS = 2048 * 1024
"""Pixels of a Cityscapes image. Larger images are scaled down: the published networks resize to at
most 800 × 1333 pixels anyway, and masks and maps at full size only cost memory and time."""


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image with its ground truth, if it has one.

    Attributes:
        title: name of the source.
        image: ``(3, H, W)`` uint8 RGB.
        key: hash of the pixels.
        target: the ground truth; None for files and uploads.
        categories: classes of the ground truth.
        annotations: annotations in the file, if the data set is one of COCO instances.
        note: note for the reader about a change of size; usually empty.
    """

    title: str
    image: Tensor
    key: str
    target: Target | None = None
    categories: Categories | None = None
    annotations: Sequence[Annotation] | None = None
    note: str = ""


Source = SourceImage | tuple[str, int] | str | Path
"""Source of an image: name of a data set as for ``labkit train`` with an index into its ``val``
split, or a file."""


def source_image(source: Source) -> SourceImage:
    """Load the image of a source.

    Raises:
        LabkitError: the data set or index does not exist, or the file is not an image.
    """
    if isinstance(source, SourceImage):
        return source
    if isinstance(source, tuple):
        return image_from_dataset(*source)
    path = Path(source)
    return _of_pixels(path.name, read_image(path))


def image_from_dataset(name: str, index: int) -> SourceImage:
    """Load an image of a data set's ``val`` split with its ground truth.

    Args:
        name: ``shapes``, ``crowded``, ``coco_panoptic:DIR``, ...; see
            :func:`labkit.datasets.registry.open_dataset`.
        index: index of the image.

    Raises:
        LabkitError: the data set or the image does not exist.
    """
    images = _dataset(name)
    if not 0 <= index < len(images):
        raise LabkitError(f"{name} has no image {index}: its val split has 0 to {len(images) - 1}")
    image, target = images[index]
    made = _of_pixels(f"{name}, image {index}", image)
    if made.note:
        return replace(made, note=f"{made.note}; the ground truth has the old size and is left out")
    rows = images.annotations(index) if isinstance(images, CocoInstances) else None
    return replace(made, target=target, categories=images.categories, annotations=rows)


def from_upload(name: str, content: bytes) -> SourceImage:
    """Decode an uploaded image.

    Raises:
        LabkitError: the content is not an image, or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Only the last part of the name: it comes from outside.
        path = Path(folder) / (Path(name.replace("\\", "/")).name or "image")
        path.write_bytes(content)
        try:
            pixels = read_image(path)
        except LabkitError as error:
            raise LabkitError(str(error).replace(f"{path}", path.name)) from None
    return _of_pixels(path.name, pixels)


def _of_pixels(title: str, image: Tensor) -> SourceImage:
    height, width = image.shape[1:]
    note = ""
    if height * width > MOST_PIXELS:
        shrink = math.sqrt(MOST_PIXELS / (height * width))
        size = max(1, int(width * shrink)), max(1, int(height * shrink))
        pixels = cv2.resize(image.permute(1, 2, 0).numpy(), size, interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        note = (
            f"{title}: {width} × {height} pixels are {height * width / 1e6:.1f} megapixels; it was"
            f" scaled down to {size[0]} × {size[1]} (at most {MOST_PIXELS / 1e6:.1f} megapixels)"
        )
    key = hashlib.sha256(repr(tuple(image.shape)).encode() + image.numpy().tobytes()).hexdigest()
    return SourceImage(title, image, key, note=note)


@cache
def _dataset(name: str) -> Any:
    """Open a data set once: the annotations of a large one take seconds to read."""
    return open_dataset(name, "val")
