"""Reproducible random numbers, and the textures of Shapes.

The same bits on every machine need some care. Numbers come from Philox's raw output, whose stream
NumPy keeps for good (it does not promise so for ``Generator``'s distributions, NEP 19). Arithmetic
is +, -, ×, / and square root on one element at a time, which IEEE 754 fixes to the last bit; sine
and exponential, matrix products and long sums depend on the processor and are not used.

Letters in shapes: ``S`` is the image's side in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""Values of pixels or points, in float32 throughout."""


class Random:
    """Generator of random numbers that depend on the key alone.

    Args:
        key: two integers in [0, 2**64).
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self._bits = np.random.Philox(key=np.array(key, np.uint64))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """Draw an integer in [low, high], both included."""
        return low + int(self.uniform() * (high - low + 1))

    def log_uniform(self, low: float, high: float) -> float:
        """Draw a log-uniform number in [low, high].

        Repeated square roots approximate the power ``high / low`` to the ``u``, because ``pow``
        may differ in its last bit from machine to machine.
        """
        bits, root, value = self.integer(0, 2**16 - 1), high / low, low
        for k in range(16):
            root = math.sqrt(root)
            if bits >> (15 - k) & 1:
                value *= root
        return value

    def field(self, *shape: int) -> Field:
        """Draw an array of numbers in [-1, 1)."""
        raw = self._bits.random_raw(math.prod(shape)) >> np.uint64(40)  # 24 bits fit a float32
        return (raw.astype(np.float32) * np.float32(2.0**-23) - 1).reshape(shape)

    def grain(self, *shape: int) -> Field:
        """Draw pixel noise of variance 1, roughly bell-shaped: the sum of two random bytes."""
        n = math.prod(shape)
        raw = self._bits.random_raw(-(-n // 4)).astype("<u8").view(np.uint8)
        total = raw[:n].astype(np.float32) + raw[n : 2 * n] - 255
        return (total / np.float32(104.5)).reshape(shape)

    def shuffled(self, n: int) -> list[int]:
        """Shuffle ``range(n)`` (Fisher and Yates)."""
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.integer(0, i)
            order[i], order[j] = order[j], order[i]
        return order


def value_noise(random: Random, size: int, rows: int, columns: int) -> Field:
    """Smooth noise ``(S, S)`` in [-1, 1]: random values on a grid, interpolated between its points.

    Args:
        rows, columns: cells of the grid along the image's height and width.
    """
    grid = random.field(rows + 1, columns + 1)
    (top, down), (left, right) = _blend(size, rows), _blend(size, columns)
    lines = grid[top] + (grid[top + 1] - grid[top]) * down[:, None]  # (S, columns + 1)
    at_left = lines[:, left]
    return at_left + (lines[:, left + 1] - at_left) * right  # (S, S)


def _blend(size: int, cells: int) -> tuple[NDArray[np.intp], Field]:
    """Grid cell of each pixel, and the smooth weight of the cell's far side."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size)
    cell = position.astype(np.intp)
    inside = position - cell.astype(np.float32)
    return cell, inside * inside * (3 - 2 * inside)


def triangle_wave(x: Field) -> Field:
    """Triangle wave of period 1 between -1 and 1, in place of the sine."""
    return np.abs(x - np.floor(x) - np.float32(0.5)) * 4 - 1


def clouds(random: Random, size: int) -> Field:
    """Texture of sky: large soft patches."""
    return value_noise(random, size, 4, 3) + value_noise(random, size, 9, 6) * np.float32(0.4)


def blades(random: Random, size: int) -> Field:
    """Texture of grass: fine upright streaks."""
    return value_noise(random, size, 14, 56) * np.float32(1.3)


def ripples(random: Random, size: int) -> Field:
    """Texture of water: horizontal waves with a slight bend."""
    height = np.arange(size, dtype=np.float32)[:, None] * np.float32(random.uniform(13, 20) / size)
    bent = height + value_noise(random, size, 7, 5) * np.float32(0.7)
    return triangle_wave(bent) * (value_noise(random, size, 9, 5) * np.float32(0.4) + 0.6)


def grains(random: Random, size: int) -> Field:
    """Texture of sand: fine speckle without direction."""
    return value_noise(random, size, 60, 60) * np.float32(1.4)
