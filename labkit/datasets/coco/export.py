"""Export of a data set in COCO's instance and panoptic formats."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from labkit.datasets.coco.panoptic_json import read_json, write_json
from labkit.datasets.coco.panoptic_png import to_annotation, write_png
from labkit.datasets.masks.mask_to_polygons import mask_to_segmentation
from labkit.datasets.targets import SegmentationDataset
from labkit.errors import LabkitError
from labkit.structures import Categories, Panoptic
from labkit.system.progress_bars import progress_bar


def export_coco(
    dataset: SegmentationDataset,
    out_dir: str | Path,
    num: int | None = None,
    split: str = "val",
    polygons: bool = False,
) -> None:
    """Write the first images of a data set and their ground truth, completely or not at all.

    The layout is COCO's: ``SPLIT/*.png`` images, ``annotations/instances_SPLIT.json`` (masks as
    run-length codes, which are exact, or as polygons),
    ``annotations/panoptic_SPLIT.json`` and ``annotations/panoptic_SPLIT/*.png``. All annotations
    are made from the panoptic map.

    Image ids are numbers, as pycocotools and Detectron2 need. If a data set's ids are names, the
    files keep these names and the images are numbered from 1.

    Args:
        dataset: any labkit data set whose targets have ``panoptic``.
        out_dir: must not exist yet, be empty, or hold other splits of the same categories.
        num: number of images; None for all.
        split: name of the split in the layout.
        polygons: write an object as polygons if their IoU with its mask is at least 0.99.

    Raises:
        LabkitError: ``out_dir`` is in use, there are fewer than ``num`` images, a target has no
            panoptic map, or the disk is full. Then nothing is written.
    """
    num = len(dataset) if num is None else num
    if not 0 < num <= len(dataset):
        raise LabkitError(f"export: num {num} must be in 1..{len(dataset)}, the data set's length")
    out_dir = Path(out_dir)
    _require_same_categories(out_dir, dataset.categories)
    written = [split, *(f"annotations/{name}" for name in _annotations(split))]
    try:
        with atomic_folder(out_dir, written) as folder:
            _write(dataset, folder, num, split, polygons)
    except OSError as error:
        raise LabkitError(f"{out_dir}: cannot be written: {error.strerror}") from None


def _annotations(split: str) -> tuple[str, str, str]:
    return f"panoptic_{split}", f"panoptic_{split}.json", f"instances_{split}.json"


def _require_same_categories(folder: Path, categories: Categories) -> None:
    for path in sorted((folder / "annotations").glob("panoptic_*.json")):
        if Categories.from_coco(read_json(path)["categories"]) != categories:
            raise LabkitError(
                f"{folder}: {path.name} has other categories than this data; name another folder"
            )


def _write(
    dataset: SegmentationDataset, folder: Path, num: int, split: str, polygons: bool
) -> None:
    pngs, panoptic_json, instances_json = _annotations(split)
    image_dir, png_dir = folder / split, folder / "annotations" / pngs
    image_dir.mkdir()
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptics: list[dict[str, Any]] = []
    for index in progress_bar(range(num), desc="export", unit="image"):
        image, target = dataset[index]
        if "panoptic" not in target:
            raise LabkitError(f"export: item {index} has no panoptic map")
        panoptic, image_id = target["panoptic"], target["image_id"]
        if isinstance(image_id, int):
            name = f"{image_id:012d}.png"
        else:
            name, image_id = f"{image_id}.png", index + 1
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(image_dir / name)
        write_png(png_dir / name, panoptic.ids.numpy())
        height, width = panoptic.ids.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        panoptics.append(to_annotation(panoptic, image_id, name, dataset.categories))
        instances += _instances(panoptic, panoptics[-1], dataset.categories, polygons)

    for number, instance in enumerate(instances, start=1):  # pycocotools takes id 0 for no match
        instance["id"] = number
    categories = dataset.categories.to_coco()
    common = {"info": {"description": f"{split}, written by labkit"}, "images": images}
    write_json(
        folder / "annotations" / panoptic_json,
        {**common, "annotations": panoptics, "categories": categories},
    )
    things = [
        {k: c[k] for k in ("id", "name", "supercategory")} for c in categories if c["isthing"]
    ]
    write_json(
        folder / "annotations" / instances_json,
        {**common, "annotations": instances, "categories": things},
    )


def _instances(
    panoptic: Panoptic, annotation: dict[str, Any], categories: Categories, polygons: bool
) -> list[dict[str, Any]]:
    """Make the instance annotations of the things of a panoptic annotation."""
    ids = panoptic.ids.numpy()
    found = []
    for info in annotation["segments_info"]:
        if categories.label(info["category_id"]) not in categories.things:
            continue
        # A crowd is always a run-length code: readers recognise crowds by it.
        segmentation = mask_to_segmentation(ids == info["id"], polygons and not info["iscrowd"])
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": info["category_id"],
                "segmentation": segmentation,
                "area": info["area"],
                "bbox": info["bbox"],
                "iscrowd": info["iscrowd"],
            }
        )
    return found


@contextmanager
def atomic_folder(path: Path, parts: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it on success, remove it on failure.

    Args:
        path: must not exist, or be empty, or be in COCO's layout and without the parts.
        parts: what is written, relative to the folder: what can be added to a folder that exists.

    Raises:
        LabkitError: ``path`` is in use.
    """
    adding = bool(parts) and (path / "annotations").is_dir()
    taken = [part for part in parts if adding and (path / part).exists()]
    if taken:
        raise LabkitError(f"{path / taken[0]}: exists already; name a new folder or another split")
    if not adding and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LabkitError(f"{path}: exists already; name a new folder, or remove it first")
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if adding:
            for part in parts:
                (temporary / part).replace(path / part)
        else:
            if path.exists():
                path.rmdir()
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
