"""Registry of data sets: those that commands open by name, such as ``coco:DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.datasets.cityscapes import Cityscapes
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.system.paths import download_folder, find_data
from labkit.system.unknown_names import unknown_name

FORMS = {
    "shapes": "shapes",
    "crowded": "crowded",
    "penn_fudan": "penn_fudan[:DIR]",
    "coco": "coco:DIR",
    "coco_panoptic": "coco_panoptic:DIR",
    "cityscapes": "cityscapes:DIR",
}
"""Syntax of each name, with the folder that it needs or may have."""
ALONE = ("shapes", "crowded", "penn_fudan")
"""Names that need no folder."""

SHAPES_LENGTH = {"train": 10_000, "val": 500, "test": 500}
"""Images of Shapes: training should seldom see one twice, measuring should take seconds."""


def recognised_formats(name: str, split: str) -> tuple[str, ...]:
    """Names of the data sets in a folder that is given without a format, most complete first.

    Args:
        name: a folder, or a name for :func:`open_dataset`, which is returned unchanged.
        split: only formats with this split are returned, unless none has it.

    Raises:
        LabkitError: the folder is in no known format.
    """
    folder = Path(name)
    if not folder.is_dir() or name in ALONE:
        return (name,)
    kinds = _kinds(folder, split) or _kinds(folder, "")
    if not kinds:
        raise LabkitError(
            f"{name}: this folder is in no known format: there is no"
            " annotations/instances_SPLIT.json (coco), annotations/panoptic_SPLIT.json"
            " (coco_panoptic), gtFine/ with leftImg8bit/ (cityscapes) or PNGImages/ with PedMasks/"
            " (penn_fudan). Masks become a data set with `labkit data from-masks`"
        )
    return tuple(f"{kind}:{name}" for kind in kinds)


def _kinds(folder: Path, split: str) -> list[str]:
    """Formats of a folder, the one with most information first."""
    signs = {
        "coco_panoptic": f"annotations/panoptic_{split}*.json",
        "coco": f"annotations/instances_{split}*.json",
        "cityscapes": "gtFine/*",
        "penn_fudan": "PNGImages/*.png",
    }
    return [kind for kind, sign in signs.items() if next(folder.glob(sign), None)]


def open_dataset(name: str, split: str) -> Any:
    """Open a data set by name.

    Args:
        name: ``shapes`` or ``crowded``, Shapes and its harder variant at 128 pixels; ``penn_fudan``
            in ``$LABKIT_DATA`` or the download folder or, with ``:DIR``, in a folder
            ``PennFudanPed``; ``coco:DIR`` with ``annotations/instances_SPLIT.json``;
            ``coco_panoptic:DIR`` with ``annotations/panoptic_SPLIT.json``; ``cityscapes:DIR`` with
            ``gtFine/cityscapes_panoptic_SPLIT.json`` and ``leftImg8bit/``.
        split: ``train``, ``val``, ...; COCO's year may be left out.

    Returns:
        A :class:`~labkit.datasets.targets.SegmentationDataset`.

    Raises:
        LabkitError: the name or the split is unknown, or the data is missing.
    """
    kind, _, folder = name.partition(":")
    if kind in ("shapes", "crowded") and not folder:
        # Shapes itself refuses an unknown split.
        return Shapes(split, SHAPES_LENGTH.get(split, 0), crowded=kind == "crowded")  # type: ignore[arg-type]
    if kind == "penn_fudan":
        here = find_data("PennFudanPed") or download_folder() / "PennFudanPed"
        return PennFudan(folder or here, split)  # type: ignore[arg-type]
    if kind == "coco" and folder:
        return CocoInstances.from_folder(folder, split)
    if kind == "coco_panoptic" and folder:
        return CocoPanoptic.from_folder(folder, split)
    if kind == "cityscapes" and folder:
        return Cityscapes(folder, split)
    if kind in FORMS:
        raise LabkitError(f"data: {name!r} must be written {FORMS[kind]}")
    listing = f"the data sets are: {', '.join(FORMS.values())}"
    if Path(name).is_dir():
        listing = f"a folder needs its format, such as coco_panoptic:{name}; {listing}"
    raise unknown_name("data set", kind, FORMS, listing)
