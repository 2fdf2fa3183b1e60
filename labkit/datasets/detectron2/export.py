"""Export of a data set for Detectron2: registration, matching configuration and training script.

Written by hand, much of this fails without a message: the number of classes is set in two places
with two meanings (``ROI_HEADS`` counts things, ``SEM_SEG_HEAD`` counts stuff plus one class,
"things"); the learning rate of a model-zoo file is for 16 images a step; run-length coded masks
need ``INPUT.MASK_FORMAT`` "bitmask"; in small images the merge's limit of 4096 pixels drops most
stuff. Here all of it is derived from the data.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from labkit.datasets.coco.export import atomic_folder
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.coco.layout import split_file
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.detectron2.config import (
    EPOCHS,
    Task,
    config_of,
    metadata_of,
    sorted_labels,
)
from labkit.datasets.image_files import read_header, require_size
from labkit.errors import LabkitError
from labkit.structures import IGNORE, Category
from labkit.system.progress_bars import progress_bar

TRAINER = Path(__file__).with_name("train.py")


def export_detectron2(
    root: str | Path,
    out: str | Path,
    task: Task,
    train: str = "train",
    val: str | None = None,
    *,
    weights: str,
    depth: int = 50,
    batch_size: int = 16,
    epochs: float = EPOCHS,
) -> dict[str, Any]:
    """Write ``dataset.json``, ``config.yaml``, ``train.py`` and semantic PNGs, all or none.

    Args:
        root: a folder in COCO's layout with ``annotations/instances_SPLIT.json`` (panoptic and
            instance) and ``annotations/panoptic_SPLIT.json`` (panoptic and semantic).
        out: must not exist yet, or be empty.
        task: "panoptic" is Panoptic FPN, "instance" Mask R-CNN, "semantic" Semantic FPN alone.
        train: the training split.
        val: the validation split, if any.
        weights: path or URL of the initial weights; layers with another class count are initialised
            randomly.
        depth: depth of the ResNet, 50 or 101.
        batch_size: images per step; learning rate and number of steps are scaled to it.
        epochs: number of passes over the training images.

    Returns:
        The configuration, as in ``config.yaml``.

    Raises:
        LabkitError: a split is missing, the two annotation files of a split have different things,
            splits have different categories, the data lacks what the task needs, or ``out`` is in
            use. Then nothing is written.
    """
    root, out = Path(root).resolve(), Path(out)
    if batch_size < 1 or not epochs > 0:
        raise LabkitError(f"batch size {batch_size} and epochs {epochs} must be positive")
    splits = list(dict.fromkeys([train] if val is None else [train, val]))
    found = [_Split(root, split, task) for split in splits]
    for other in found[1:]:
        if _ids(other.categories) != _ids(found[0].categories):
            raise LabkitError(
                f"{root}: the categories of {other.name!r} differ from those of {found[0].name!r};"
                " one model cannot serve both"
            )
    metadata = metadata_of(found[0].categories, task)
    config = config_of(
        task,
        metadata,
        found[0].length,
        found[0].area,
        found[0].polygons,
        depth,
        batch_size,
        epochs,
    )
    name = root.name.replace(" ", "_") or "data"
    config["MODEL"]["WEIGHTS"] = weights
    config["DATASETS"] = {
        "TRAIN": [f"{name}_{found[0].name}"],
        "TEST": [f"{name}_{each.name}" for each in found[1:]],
    }
    content = {
        "name": name,
        "task": task,
        "metadata": metadata,
        # Relative, so that data and export can be moved together, also to another machine.
        "splits": {
            each.name: {kind: _relative(path, out) for kind, path in each.files.items()}
            for each in found
        },
    }
    try:
        with atomic_folder(out) as folder:
            if task != "instance":
                for each in found:
                    each.write_semantic(folder / "semantic" / each.name, task)
            (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")
            (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            shutil.copyfile(TRAINER, folder / "train.py")
    except OSError as error:
        raise LabkitError(f"{out}: cannot be written: {error.strerror}") from None
    return config


class _Split:
    """Files, categories and sizes of a split, whose two annotation files must agree."""

    def __init__(self, root: Path, split: str, task: Task) -> None:
        self.files: dict[str, str] = {}
        self.polygons = False
        data: CocoPanoptic | CocoInstances
        if task != "semantic":
            path = split_file(root, "instances", split)
            self.files["instances"] = str(path)
            data = instances = CocoInstances(path)
            for index in range(len(instances)):
                info = instances.image_info(index)
                image = instances.image_path(index)
                require_size(image, *read_header(image), (info["height"], info["width"]))
            self.polygons = instances.only_polygons
        if task != "instance":
            path = split_file(root, "panoptic", split)
            self.panoptic = CocoPanoptic(path)
            self.files |= {"panoptic": str(path), "pngs": str(self.panoptic.png_dir)}
            if task == "panoptic":
                _require_same(instances, self.panoptic)
            data = self.panoptic
        self.name = path.stem.partition("_")[2]
        self.files["images"] = str(data.image_dir)
        self.categories = data.categories
        self.length = len(data)
        images = [data.image_info(index) for index in range(len(data))]
        self.area = statistics.median(image["height"] * image["width"] for image in images)

    def write_semantic(self, folder: Path, task: Task) -> None:
        """Write a semantic PNG for each image, 255 on unlabelled pixels."""
        things = len(self.panoptic.categories.things)
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        order = sorted_labels(self.panoptic.categories, task)
        for number, label in enumerate(order):
            table[label] = number
        if task == "panoptic":
            table[:things] = 0
        for index in progress_bar(range(len(self.panoptic)), desc=self.name, unit="image"):
            _, target = self.panoptic[index]
            image = self.panoptic.image_path(index)
            name = image.relative_to(self.panoptic.image_dir).with_suffix(".png")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table[target["semantic"].numpy()]).save(folder / name)


def _relative(path: str, out: Path) -> str:
    """Path relative to the export's folder, with slashes; absolute if the drives differ."""
    try:
        return Path(os.path.relpath(path, out.resolve())).as_posix()
    except ValueError:  # Windows
        return path


def _ids(categories: Iterable[Category]) -> list[tuple[int, str]]:
    return sorted((c.id, c.name) for c in categories)


def _require_same(instances: CocoInstances, panoptic: CocoPanoptic) -> None:
    """Refuse an instance JSON whose things or images differ from those of the panoptic JSON."""
    things = [panoptic.categories[label] for label in panoptic.categories.things]
    for what, same in (
        ("categories", _ids(things) == _ids(instances.categories)),
        ("images", _files(instances) == _files(panoptic)),
    ):
        if not same:
            raise LabkitError(
                f"{instances.path}: its {what} are not those of the panoptic JSON beside it; make"
                " both from the same masks (`labkit data from-masks`)"
            )


def _files(data: CocoInstances | CocoPanoptic) -> set[str]:
    return {data.image_info(index)["file_name"] for index in range(len(data))}
