"""COCO's layout of a folder: ``annotations/KIND_SPLIT.json`` and the images in ``SPLIT/``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from labkit.errors import LabkitError

Kind = Literal["instances", "panoptic"]


def split_file(root: Path, kind: Kind, split: str | None = None) -> Path:
    """Find ``annotations/KIND_SPLIT.json``, or the only one whose split begins with ``split``.

    Args:
        root: the folder.
        kind: of the annotations.
        split: for example ``val2017``, or ``val``; optional if there is only one.

    Raises:
        LabkitError: none or several are found.
    """
    prefix = f"{kind}_"
    paths = sorted((root / "annotations").glob(f"{prefix}*.json"))
    found = {path.stem.removeprefix(prefix): path for path in paths}
    names = ", ".join(found)
    if not found:
        raise LabkitError(f"{root}: no annotations/{prefix}*.json in it")
    if split in found:
        return found[split]
    close = [name for name in found if split is None or name.startswith(split)]
    if not close:
        raise LabkitError(f"{root}: no split {split!r}; it has {names}")
    if len(close) > 1:
        begin = "" if split is None else f" that begin with {split!r}"
        raise LabkitError(f"{root}: has several splits{begin}; name one of {', '.join(close)}")
    return found[close[0]]


def image_folder(json_path: Path, kind: Kind) -> Path:
    """Folder of the images that an annotation file of this layout describes."""
    return json_path.parent.parent / json_path.stem.removeprefix(f"{kind}_")
