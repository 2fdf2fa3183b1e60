"""Colours of classes, objects and curves, distinct also without colour vision up to ten.

Pictures never tell regions apart by colour alone: they add outlines and names
(:mod:`labkit.visualize`).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Collection, Mapping, Sequence

Color = tuple[int, int, int]
"""RGB, 0 to 255."""

# M. A. Petroff, "Accessible Color Sequences for Data Visualization", 2021, the ten-colour sequence.
PETROFF_10 = (
    (63, 144, 218),
    (255, 169, 14),
    (189, 31, 1),
    (148, 164, 162),
    (131, 45, 182),
    (169, 107, 89),
    (231, 99, 0),
    (185, 172, 112),
    (113, 117, 129),
    (146, 218, 221),
)


def distinct_colors(n: int) -> list[Color]:
    """Choose ``n`` colours: Petroff's ten, then hues a golden angle apart in three lightnesses.

    Beyond ten they still differ, but not for every reader.
    """
    colors = list(PETROFF_10[:n])
    for k in range(n - len(colors)):
        hue, light = (k * 0.61803398875) % 1.0, (0.42, 0.58, 0.74)[k % 3]
        r, g, b = colorsys.hls_to_rgb(hue, light, 0.65)
        colors.append((round(255 * r), round(255 * g), round(255 * b)))
    return colors


NATURAL: Mapping[str, Color] = {
    "sky": (120, 186, 236),
    "grass": (98, 158, 62),
    "water": (36, 82, 158),
    "sea": (36, 82, 158),
    "river": (36, 82, 158),
    "puddle": (36, 82, 158),
    "sand": (246, 236, 196),
    "snow": (236, 240, 245),
    "tree": (38, 102, 52),
    "vegetation": (38, 102, 52),
    "road": (96, 92, 104),
    "concrete": (178, 172, 160),
    "dirt": (140, 108, 76),
    "soil": (140, 108, 76),
    "ground": (140, 108, 76),
    "terrain": (140, 108, 76),
}
"""Colours that a reader expects of stuff, by the name of the class."""


def class_colors(things: Sequence[str], stuff: Sequence[str]) -> list[Color]:
    """Choose a colour for each class: natural ones for stuff, unlike them for the others.

    Greys come last: :func:`labkit.visualize.overlay` draws over a grey image.

    Args:
        things: names of the things.
        stuff: names of the stuff.

    Returns:
        One colour for each name, all different, things first.
    """
    natural: dict[int, Color] = {}
    for index, name in enumerate(stuff, start=len(things)):
        color = NATURAL.get(name.lower())
        if color is not None and color not in natural.values():
            natural[index] = color
    total = len(things) + len(stuff)
    candidates = distinct_colors(max(total, len(PETROFF_10)) + 2 * len(natural))
    apart = [c for c in candidates if all(math.dist(c, n) >= 95 for n in natural.values())]
    near = [c for c in candidates if c not in apart]
    others = iter(sorted(apart, key=_is_grey) + near)
    return [natural[i] if i in natural else next(others) for i in range(total)]


def _is_grey(color: Color) -> bool:
    return max(color) - min(color) < 30


def object_color(number: int, stuff: Collection[Color | None]) -> Color:
    """Choose the colour of object ``number``: unlike its neighbours in number, unlike ``stuff``."""
    colors = distinct_colors(number + 1 + len(set(stuff)))
    return [color for color in colors if color not in stuff][number]


def shaded(color: Color, number: int) -> tuple[float, float, float]:
    """Lighten or darken a class's colour, so that its neighbouring segments differ."""
    shade = (0.0, 0.35, -0.3, 0.18, -0.15)[number % 5]
    toward = 255.0 if shade > 0 else 0.0
    red, green, blue = (value * (1 - abs(shade)) + toward * abs(shade) for value in color)
    return red, green, blue


def to_matplotlib(color: Color) -> tuple[float, float, float]:
    """Scale a colour to matplotlib's range, 0 to 1."""
    return color[0] / 255, color[1] / 255, color[2] / 255
