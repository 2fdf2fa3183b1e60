"""A data set for Detectron2: what its registration needs, and a configuration that fits it.

Much of it goes wrong when written by hand, mostly without a message: the number of classes stands
in two places and means two things (``ROI_HEADS`` counts things, ``SEM_SEG_HEAD`` counts stuff and
one more, "things"); the learning rate of a model-zoo file belongs to 16 images a step; masks that
are run-length codes need ``INPUT.MASK_FORMAT`` "bitmask"; in small pictures the fusion's limit of
4096 pixels drops most stuff. Here all of it follows from the data.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image

from labkit.datasets.coco_instances import CocoInstances, split_file
from labkit.datasets.coco_panoptic import CocoPanoptic
from labkit.datasets.export import whole_folder
from labkit.errors import LabkitError
from labkit.progress import progress_bar
from labkit.structures import IGNORE, Categories, Category

Task = Literal["panoptic", "instance", "semantic"]

EPOCHS = 36
"""270,000 steps of 16 of COCO's 118,287 images, the schedule "3x" of Detectron2's model zoo."""
DROPS = (7 / 9, 25 / 27)
"""Where in that schedule the learning rate falls to a tenth: 210,000 and 250,000 steps."""
RATE = 0.02 / 16
"""Learning rate for each image of a step (Goyal et al., 2017, the linear scaling rule)."""
STUFF_AREA = 4096 / (480 * 640)
"""The smallest stuff region that the fusion keeps, as a share of a picture of COCO."""
TRAINER = Path(__file__).with_name("detectron2_train.py")


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
    """Write ``dataset.json``, ``config.yaml``, ``train.py`` and semantic PNGs, all or nothing.

    Args:
        root: a folder in COCO's layout with ``annotations/instances_SPLIT.json`` (panoptic and
            instance) and ``annotations/panoptic_SPLIT.json`` (panoptic and semantic).
        out: must not exist yet, or be empty.
        task: "panoptic" is Panoptic FPN, "instance" Mask R-CNN, "semantic" Semantic FPN alone.
        train: the split to learn from.
        val: the split to measure, if any.
        weights: path or URL of the weights to start from; layers whose class count differs start
            anew.
        depth: of the residual network, 50 or 101.
        batch_size: images a step; learning rate and steps follow it.
        epochs: how often each image is seen.

    Returns:
        The configuration, as in ``config.yaml``.

    Raises:
        LabkitError: a split is missing, the two annotation files of a split name different things,
            splits have different categories, the data lacks what the task is about, ``out`` is in
            use. Nothing is left behind then.
    """
    root, out = Path(root).resolve(), Path(out)
    if batch_size < 1 or not epochs > 0:
        raise LabkitError(f"batch size {batch_size} and epochs {epochs} must be positive")
    splits = list(dict.fromkeys([train] if val is None else [train, val]))
    found = [_Split(root, split, task) for split in splits]
    for other in found[1:]:
        if _ids(other.categories) != _ids(found[0].categories):
            raise LabkitError(
                f"{other.files}: its categories differ from those of {found[0].name!r}; one model"
                " cannot serve both"
            )
    metadata = _metadata(found[0].categories, task)
    config = _config(task, metadata, found[0], depth, batch_size, epochs)
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
        "splits": {each.name: each.files for each in found},
    }
    try:
        with whole_folder(out) as folder:
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
    """A split's files, categories and sizes; its two annotation files agree."""

    def __init__(self, root: Path, split: str, task: Task) -> None:
        self.files: dict[str, str] = {}
        data: CocoPanoptic | CocoInstances
        if task != "semantic":
            path = split_file(root, "instances", split)
            self.files["instances"] = str(path)
            data = CocoInstances(path)
            content = json.loads(path.read_bytes())
            self.polygons = all(
                isinstance(annotation["segmentation"], list)
                for annotation in content["annotations"]
                if not annotation.get("iscrowd")
            )
        if task != "instance":
            path = split_file(root, "panoptic", split)
            self.panoptic = CocoPanoptic(path)
            self.files |= {"panoptic": str(path), "pngs": str(self.panoptic.png_dir)}
            if task == "panoptic":
                _require_same(content, self.panoptic, Path(self.files["instances"]))
            data, content = self.panoptic, json.loads(path.read_bytes())
        self.name = path.stem.partition("_")[2]
        self.files["images"] = str(data.image_dir)
        self.categories = data.categories
        self.length = len(data)
        self.area = statistics.median(i["height"] * i["width"] for i in content["images"])

    def write_semantic(self, folder: Path, task: Task) -> None:
        """A PNG of classes for each image, 255 where nothing is labelled."""
        things = len(self.panoptic.categories.things)
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        order = _sorted_labels(self.panoptic.categories, task)
        for number, label in enumerate(order):
            table[label] = number
        if task == "panoptic":
            table[:things] = 0
        for index in progress_bar(range(len(self.panoptic)), desc=self.name, unit="image"):
            _, target = self.panoptic[index]
            name = Path(self.panoptic.image_info(index)["file_name"]).with_suffix(".png")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table[target["semantic"].numpy()]).save(folder / name)


def _ids(categories: Iterable[Category]) -> list[tuple[int, str]]:
    return sorted((c.id, c.name) for c in categories)


def _require_same(instances: dict[str, Any], panoptic: CocoPanoptic, path: Path) -> None:
    """Refuse an instance JSON about other things or images than the panoptic one beside it."""
    things = [panoptic.categories[label] for label in panoptic.categories.things]
    of_panoptic = {panoptic.image_info(k)["file_name"] for k in range(len(panoptic))}
    for what, same in (
        (
            "categories",
            _ids(things) == sorted((c["id"], c["name"]) for c in instances["categories"]),
        ),
        ("images", {i["file_name"] for i in instances["images"]} == of_panoptic),
    ):
        if not same:
            raise LabkitError(
                f"{path}: its {what} are not those of the panoptic JSON beside it; make both from"
                " the same masks (`labkit data from-masks`)"
            )


def _sorted_labels(categories: Categories, task: Task) -> list[int]:
    """Labels in the order of Detectron2's classes of the semantic head: by category id.

    For "panoptic" a place for all things together comes first; it is given the first thing here.
    """
    stuff = sorted(categories.stuff, key=lambda label: int(categories[label].id))
    if task == "panoptic":
        return [0, *stuff]
    return sorted(range(len(categories)), key=lambda label: int(categories[label].id))


def _metadata(categories: Categories, task: Task) -> dict[str, Any]:
    """Names, colours and ids of the classes, as Detectron2 names them."""
    things = sorted((categories[k] for k in categories.things), key=lambda c: c.id)
    stuff = sorted((categories[k] for k in categories.stuff), key=lambda c: c.id)
    found: dict[str, Any] = {"ignore_label": IGNORE}
    if task == "panoptic" and not (things and stuff):
        lacks = "stuff" if things else "things"
        raise LabkitError(f"the data has no {lacks}; a panoptic model needs things and stuff")
    if task != "semantic":
        found["thing_classes"] = [c.name for c in things]
        found["thing_colors"] = [_color(c) for c in things]
        found["thing_dataset_id_to_contiguous_id"] = {c.id: k for k, c in enumerate(things)}
    if task == "semantic":
        every = sorted(categories, key=lambda c: c.id)
        found["stuff_classes"] = [c.name for c in every]
        found["stuff_colors"] = [_color(c) for c in every]
        found["stuff_dataset_id_to_contiguous_id"] = {c.id: k for k, c in enumerate(every)}
    if task == "panoptic":
        found["stuff_classes"] = ["things", *(c.name for c in stuff)]
        found["stuff_colors"] = [[128, 128, 128], *(_color(c) for c in stuff)]
        # Class 0 stands for all things; 0 is no category's id.
        contiguous = {0: 0} | {c.id: k for k, c in enumerate(stuff, start=1)}
        found["stuff_dataset_id_to_contiguous_id"] = contiguous
    return found


def _color(category: Category) -> list[int]:
    assert category.color is not None  # Categories gives each one
    return list(category.color)


def _config(
    task: Task, metadata: dict[str, Any], split: _Split, depth: int, batch_size: int, epochs: float
) -> dict[str, Any]:
    """Every setting that differs from Detectron2's defaults."""
    steps = max(1, round(epochs * split.length / batch_size))
    levels = ["p2", "p3", "p4", "p5"]
    model: dict[str, Any] = {
        "META_ARCHITECTURE": {
            "panoptic": "PanopticFPN",
            "instance": "GeneralizedRCNN",
            "semantic": "SemanticSegmentor",
        }[task],
        "MASK_ON": task != "semantic",
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": depth, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
    }
    if task != "semantic":
        model |= {
            "ANCHOR_GENERATOR": {
                "SIZES": [[32], [64], [128], [256], [512]],
                "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            },
            "RPN": {
                "IN_FEATURES": [*levels, "p6"],
                "PRE_NMS_TOPK_TRAIN": 2000,
                "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": 1000,
                "POST_NMS_TOPK_TEST": 1000,
            },
            "ROI_HEADS": {
                "NAME": "StandardROIHeads",
                "IN_FEATURES": levels,
                "NUM_CLASSES": len(metadata["thing_classes"]),
            },
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
            "ROI_MASK_HEAD": {
                "NAME": "MaskRCNNConvUpsampleHead",
                "NUM_CONV": 4,
                "POOLER_RESOLUTION": 14,
            },
        }
    if task != "instance":
        model["SEM_SEG_HEAD"] = {"NUM_CLASSES": len(metadata["stuff_classes"])}
    if task == "panoptic":
        model["SEM_SEG_HEAD"]["LOSS_WEIGHT"] = 0.5
        limit = round(STUFF_AREA * split.area)
        model["PANOPTIC_FPN"] = {"COMBINE": {"STUFF_AREA_LIMIT": limit}}
    return {
        "VERSION": 2,
        "MODEL": model,
        "INPUT": {
            "MASK_FORMAT": "polygon" if task != "semantic" and split.polygons else "bitmask",
            "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
        },
        "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": task == "instance"},
        "SOLVER": {
            "IMS_PER_BATCH": batch_size,
            "BASE_LR": RATE * batch_size,
            "MAX_ITER": steps,
            "STEPS": sorted({max(1, round(share * steps)) for share in DROPS} - {steps}),
            "WARMUP_ITERS": min(1000, steps // 10),
        },
    }
