"""A reader of files from outside, as a campaign takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reader:
    """How valid files are made, and how files are read.

    Attributes:
        make: writes valid files into a folder.
        read: reads the folder.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], None]
