"""The canvas of Shapes: paints the ground, then objects over each other, then light and noise.

Letters in shapes: ``S`` is the image's side in pixels, ``K`` the number of ground regions, ``h``
and ``w`` the sides of an object's window. ``textures.py`` says which random numbers and which
arithmetic keep the pixels the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.datasets.shapes.textures import (
    Field,
    Random,
    blades,
    clouds,
    grains,
    ripples,
    triangle_wave,
    value_noise,
)

# One entry per stuff class, in the order sky, grass, water, sand.
TEXTURES = (clouds, blades, ripples, grains)
BASE_COLORS = ((150, 180, 210), (112, 150, 84), (92, 140, 172), (192, 172, 132))

MIN_VISIBLE_PART = 0.15
MIN_VISIBLE_PIXELS = 20
"""At least 15 % of an object's pixels in the image, and at least 20 pixels, stay visible."""

MIN_REGION = 0.02
"""Ground regions below this share of the image are filled by their neighbours."""

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """An object to draw.

    Attributes:
        kind: 0 square, 1 circle, 2 triangle.
        x, y: its centre, in parts of the image's side.
        radius: likewise; the kinds have about the area of a circle of this radius.
        color: red, green and blue, 0 to 255.
    """

    kind: int
    x: float
    y: float
    radius: float
    color: Color


class Canvas:
    """An image that is being painted.

    Args:
        random: where all its chance comes from.
        size: side in pixels.
        pull: how far the ground's colours are drawn to a common one, 0 to 1.

    Attributes:
        pixels: ``(3, S, S)`` float32.
        ids: ``(S, S)`` int32: an object's number from 1, or minus one minus the ground's kind.
        kinds: of the objects, the first one's number is 1.
    """

    def __init__(self, random: Random, size: int, pull: float) -> None:
        self.random, self.size = random, size
        self.kinds: list[int] = []
        self._full: list[int] = []  # an object's pixels when it was drawn
        self._visible: list[int] = []  # those that nothing drawn later covers
        self._paint_ground(pull)

    def _paint_ground(self, pull: float) -> None:
        random, size = self.random, self.size
        present = sorted(random.shuffled(len(TEXTURES))[: random.integer(2, 4)])
        region = self._regions(present)
        common = [random.uniform(90, 170) for _ in range(3)]
        self.ids = np.empty((size, size), np.int32)
        self.pixels = np.zeros((3, size, size), np.float32)
        for k, kind in enumerate(present):
            color = [
                (1 - pull) * (base + random.uniform(-45, 45)) + pull * mean
                for base, mean in zip(BASE_COLORS[kind], common, strict=True)
            ]
            texture = TEXTURES[kind](random, size) * np.float32(random.uniform(16, 32))
            here = region == k
            self.ids[here] = -1 - kind
            self.pixels += (_column(color) + texture) * here

    def _regions(self, present: Sequence[int]) -> NDArray[np.intp]:
        """Ground class of each pixel ``(S, S)``: the one of ``present`` with the highest field."""
        random, size = self.random, self.size
        height = np.arange(size, dtype=np.float32)[::-1, None] / np.float32(size)
        fields = np.stack(
            [
                value_noise(random, size, 3, 2)
                + value_noise(random, size, 7, 6) * np.float32(0.2)
                + height * np.float32(0.9 if TEXTURES[kind] is clouds else 0)  # sky is rather above
                for kind in present
            ]
        )  # (K, S, S)
        while True:
            region = fields.argmax(axis=0)
            area = np.bincount(region.ravel(), minlength=len(present))
            small = (area > 0) & (area < MIN_REGION * size * size)
            if not small.any():
                return region
            fields[small] = -np.inf

    def draw(self, shape: Shape) -> bool:
        """Paint an object on top, unless it or an object below it would be hidden too much.

        Returns:
            Whether it was painted.
        """
        size = self.size
        cos, sin = tilt(self.random)
        pattern, contrast = self.random.integer(0, 3), self.random.uniform(5, 18)
        period, rim = self.random.uniform(0.35, 0.8), self.random.uniform(0.55, 0.85)

        x, y, radius = shape.x * size - 0.5, shape.y * size - 0.5, shape.radius * size
        reach = 1.45 * radius + 1  # a triangle's corner is the farthest, 1.4 radii away
        x1, x2 = max(int(x - reach), 0), min(int(x + reach) + 2, size)
        y1, y2 = max(int(y - reach), 0), min(int(y + reach) + 2, size)
        if x1 >= x2 or y1 >= y2:
            return False
        dx = np.arange(x1, x2, dtype=np.float32) - np.float32(x)
        dy = np.arange(y1, y2, dtype=np.float32)[:, None] - np.float32(y)
        u = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(radius)  # (h, w)
        v = (dy * np.float32(cos) - dx * np.float32(sin)) / np.float32(radius)
        outside = OUTLINES[shape.kind](u, v) * np.float32(radius)  # pixels from the outline
        inside = outside < 0
        window = self.ids[y1:y2, x1:x2]
        if not self._make_room(window[inside]):
            return False

        self.kinds.append(shape.kind)
        window[inside] = len(self.kinds)
        paint = _pattern(pattern, u, v, np.float32(period)) * np.float32(contrast)
        paint = _column(shape.color) + paint - v * np.float32(12)  # lighter at one side
        paint = np.where(outside > -1.2, paint * np.float32(rim), paint)
        cover = np.clip(np.float32(0.5) - outside, 0, 1)
        below = self.pixels[:, y1:y2, x1:x2]
        below += (paint - below) * cover
        return True

    def _make_room(self, under: NDArray[np.int32]) -> bool:
        """Update the visible pixels for an object over ``under``, unless it hides an older one."""
        covered = np.bincount(under[under > 0], minlength=len(self.kinds) + 1)[1:].tolist()
        visible = [v - c for v, c in zip(self._visible, covered, strict=True)]
        enough = [_enough(v, f) for v, f in zip(visible, self._full, strict=True)]
        if not all(enough) or not _enough(under.size, under.size):
            return False
        self._visible = [*visible, under.size]
        self._full.append(under.size)
        return True

    def finish(self) -> NDArray[np.uint8]:
        """Add a linear gradient of light and noise; return the image ``(3, S, S)``."""
        random, size = self.random, self.size
        ramp = np.arange(size, dtype=np.float32) / np.float32(size) - np.float32(0.5)
        across, down = random.uniform(-0.5, 0.5), random.uniform(-0.5, 0.5)
        light = ramp * np.float32(across) + (ramp * np.float32(down))[:, None]  # (S, S)
        pixels = self.pixels * (light + np.float32(random.uniform(0.8, 1.15)))
        pixels += random.grain(3, size, size) * np.float32(random.uniform(2, 9))
        return np.clip(pixels, 0, 255).astype(np.uint8)


def direction(random: Random) -> tuple[float, float]:
    """Draw the cosine and sine of a random angle from the rational points of the circle."""
    t, side = random.uniform(-1, 1), random.integer(0, 1) * 2 - 1
    return side * (1 - t * t) / (1 + t * t), side * 2 * t / (1 + t * t)


def tilt(random: Random) -> tuple[float, float]:
    """Draw the cosine and sine of a random angle within 14 degrees of upright.

    A class that is turned at will takes a small network many times longer to learn.
    """
    t = random.uniform(-0.12, 0.12)
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _square(u: Field, v: Field) -> Field:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.886)


def _circle(u: Field, v: Field) -> Field:
    return np.sqrt(u * u + v * v) - 1


def _triangle(u: Field, v: Field) -> Field:
    """Equilateral triangle whose centre is 0.7 radii from each side."""
    slope = np.abs(u) * np.float32(0.8660254) - v * np.float32(0.5)
    return np.maximum(slope, v) - np.float32(0.7)


OUTLINES = (_square, _circle, _triangle)
"""Signed distance to a shape's outline, negative inside, of points ``u, v``; all in radii."""


def _pattern(pattern: int, u: Field, v: Field, period: np.float32) -> Field:
    """Texture in [-1, 1] that rotates with its object: plain, stripes, checks or rings."""
    if pattern == 0:
        return np.zeros_like(u)
    if pattern == 1:
        return triangle_wave(u / period)
    if pattern == 2:
        return triangle_wave(u / period) * triangle_wave(v / period)
    return triangle_wave(np.sqrt(u * u + v * v) / period)


def _enough(visible: int, full: int) -> bool:
    return visible >= MIN_VISIBLE_PIXELS and visible >= MIN_VISIBLE_PART * full


def _column(color: Sequence[float]) -> Field:
    """A colour as ``(3, 1, 1)``."""
    return np.array(color, np.float32)[:, None, None]
