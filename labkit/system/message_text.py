"""Counts with nouns and short lists, for messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Write a count with its noun: ``1 image``, ``2 images``, ``1,200 images``.

    Args:
        number: how many.
        noun: of one.
        nouns: of several, where it is not the noun and an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def listed(values: Sequence[Any], most: int = 12) -> str:
    """Write a list: ``1, 2, 3``, and ``...`` in place of the items after the first ``most``."""
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
