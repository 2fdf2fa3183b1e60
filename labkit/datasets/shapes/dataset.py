"""Shapes: a synthetic panoptic data set, so that every lesson runs without a download.

Things are squares, circles and triangles with rotation, texture and occlusion; their colour does
not depend on their class. Stuff is sky, grass, water and sand, which differ mainly in texture.

An image depends on its seed, variant, size and absolute index and on nothing else: reading is
random access and the same on every machine. At another size the scene is the same one, drawn finer
or coarser, up to its noise and its smallest objects.

Letters in shapes: ``S`` is the image's side in pixels.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.shapes.canvas import Canvas, Color, Shape, direction
from labkit.datasets.shapes.textures import Random
from labkit.datasets.targets import target_from_panoptic
from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Panoptic, Segment, Target
from labkit.system.message_text import counted

Split = Literal["train", "val", "test"]

SPLIT_LENGTH = 1_000_000
"""Absolute indices per split: train begins at 0, val at 1,000,000 and test at 2,000,000."""

COCO_SIDE = 554
"""Side of a square as large as COCO's usual 640 × 480 image."""


class Shapes(Dataset[tuple[Tensor, Target]]):
    """Shapes: ``ds[i]`` is ``(image, target)`` with ``image`` ``(3, S, S)`` uint8 RGB.

    Objects span COCO's three sizes. COCO calls an object small below 32² pixels and large from 96²
    on, in images of about 640 × 480; :attr:`area_limits` are these limits in this set's images,
    7.4² and 22.2² at 128 pixels.

    Args:
        split: ``train``, ``val`` or ``test``; no image is in two of them.
        num: how many images.
        size: side of the square images in pixels.
        crowded: the harder variant: groups of many small objects of one class and nearly one
            colour that touch and cover each other, on ground whose regions are close in colour.
        seed: another seed is another data set.

    Raises:
        LabkitError: an argument is out of range.
    """

    categories = Categories(
        [
            Category(1, "square", True),
            Category(2, "circle", True),
            Category(3, "triangle", True),
            Category(4, "sky", False),
            Category(5, "grass", False),
            Category(6, "water", False),
            Category(7, "sand", False),
        ]
    )

    def __init__(
        self,
        split: Split = "train",
        num: int = 1000,
        size: int = 128,
        crowded: bool = False,
        seed: int = 0,
    ) -> None:
        splits = get_args(Split)
        if split not in splits:
            raise LabkitError(f"Shapes: split {split!r} is not one of {', '.join(splits)}")
        if not 0 <= num <= SPLIT_LENGTH:
            raise LabkitError(f"Shapes: num {num} must be in 0..{SPLIT_LENGTH}")
        if not 32 <= size <= 2048:
            raise LabkitError(f"Shapes: size {size} must be in 32..2048 pixels")
        if not 0 <= seed < 2**64:
            raise LabkitError(f"Shapes: seed {seed} must be in 0..2**64 - 1")
        self.split, self.num, self.size, self.crowded, self.seed = split, num, size, crowded, seed
        self._first = splits.index(split) * SPLIT_LENGTH

    def __len__(self) -> int:
        return self.num

    @property
    def area_limits(self) -> tuple[float, float]:
        """Areas in pixels that separate small, medium and large: COCO's 32² and 96², scaled."""
        scale = self.size / COCO_SIDE
        return (32 * scale) ** 2, (96 * scale) ** 2

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Draw an image; its ``image_id`` is the absolute index.

        Raises:
            IndexError: the index does not exist; this ends ``for image, target in dataset``.
        """
        if not -self.num <= index < self.num:
            raise IndexError(f"Shapes: index {index}, but it has {counted(self.num, 'image')}")
        image_id = self._first + index % self.num
        random = Random((self.seed, 2 * image_id + self.crowded))
        canvas = Canvas(random, self.size, pull=random.uniform(0.6, 0.9) if self.crowded else 0)
        for shape in _groups(random) if self.crowded else _scattered(random):
            canvas.draw(shape)
        panoptic = _panoptic(canvas.ids, canvas.kinds, len(self.categories.things))
        image = torch.from_numpy(canvas.finish())
        return image, target_from_panoptic(panoptic, self.categories, image_id)


def _scattered(random: Random) -> list[Shape]:
    """Draw two to eight objects at random places, log-uniform in size from small to large."""
    return [
        Shape(
            kind=random.integer(0, 2),
            x=random.uniform(0.03, 0.97),
            y=random.uniform(0.03, 0.97),
            radius=random.log_uniform(0.03, 0.26),
            color=_color(random),
        )
        for _ in range(random.integer(2, 8))
    ]


def _groups(random: Random) -> list[Shape]:
    """Draw two to four groups; in a group, each object touches or covers an earlier one."""
    shapes: list[Shape] = []
    for _ in range(random.integer(2, 4)):
        kind, (red, green, blue) = random.integer(0, 2), _color(random)
        typical, x, y = random.log_uniform(0.04, 0.09), random.uniform(), random.uniform()
        group: list[Shape] = []
        for _ in range(random.integer(4, 10)):
            radius = typical * random.uniform(0.75, 1.3)
            if group:
                near = group[random.integer(0, len(group) - 1)]
                distance = (near.radius + radius) * random.uniform(0.55, 1.0)
                cos, sin = direction(random)
                x, y = near.x + distance * cos, near.y + distance * sin
            shade = [random.uniform(-18, 18) for _ in range(3)]
            color = (red + shade[0], green + shade[1], blue + shade[2])
            group.append(Shape(kind, x, y, radius, color))
        shapes += group
    return shapes


def _color(random: Random) -> Color:
    return random.uniform(20, 235), random.uniform(20, 235), random.uniform(20, 235)


def _panoptic(ids: NDArray[np.int32], kinds: list[int], first_stuff: int) -> Panoptic:
    """Build the panoptic map: objects first, then the visible ground regions."""
    segments = [Segment(i, label) for i, label in enumerate(kinds, start=1)]
    for value in np.unique(ids[ids < 0])[::-1].tolist():
        segments.append(Segment(len(segments) + 1, first_stuff - 1 - value))
        ids[ids == value] = len(segments)
    return Panoptic(torch.from_numpy(ids), segments)
