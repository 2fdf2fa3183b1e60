"""Checkpoint files of one's own: which project wrote them, and the labkit model that they fit.

The names of the weights tell the project, their shapes the number of classes. A Detectron2
checkpoint needs its ``config.yaml`` beside it; the other projects' models have one configuration.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from labkit.checkpoints import detectron2, detr, torchvision, upsnet
from labkit.checkpoints.detectron2_config import read_config
from labkit.checkpoints.safe_unpickle import read_checkpoint, state_dict_of
from labkit.datasets.cityscapes_categories import cityscapes_panoptic
from labkit.datasets.coco.categories import coco_ids_1_to_90, coco_panoptic, coco_things
from labkit.datasets.json_fields import check_category_entries, read_json_file
from labkit.errors import LabkitError
from labkit.models.detr.detr import DETRConfig
from labkit.models.presets import PRESETS
from labkit.models.upsnet.upsnet import UPSNetConfig
from labkit.structures import Categories, Category

SUFFIXES = (".pth", ".pt", ".pkl")
CONFIG = "config.yaml"

Built = tuple[nn.Module, Callable[[Path, Mapping[str, Any], Any], None]]
"""A model, and what assigns the weights of a file to it."""


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint file, and not one in the folder of a labkit run."""
    of_a_run = path.with_name("run.json").is_file()
    return path.is_file() and path.suffix in SUFFIXES and not of_a_run


def load_file(path: Path, categories: Categories | None = None) -> nn.Module:
    """Load a checkpoint of Detectron2, torchvision, DETR or UPSNet, in evaluation mode.

    Args:
        path: a ``.pth``, ``.pt`` or ``.pkl``.
        categories: the classes; None for COCO's or Cityscapes' where their number or the
            configuration says so, else classes named by their numbers.

    Raises:
        LabkitError: the file is missing, damaged or contains code; no project's names are in it;
            the configuration is missing or not supported; the number of classes differs.
    """
    content = read_checkpoint(path)
    weights = state_dict_of(path, content)
    for marks, build in (
        (("proposal_generator.", "roi_heads.box_predictor."), _detectron2),
        (("backbone.body.", "rpn.head."), _torchvision),
        (("transformer.encoder.", "class_embed."), partial(_detr, content=content)),
        (("resnet_backbone.", "rcnn."), _upsnet),
    ):
        if all(any(mark in name for name in weights) for mark in marks):
            model, assign = build(path, weights, categories)
            assign(path, weights, model)
            return model.eval()
    shown = ", ".join(list(weights)[:4])
    raise LabkitError(
        f"{path}: no weights of Detectron2's R-CNNs, torchvision's Mask R-CNN, DETR or UPSNet;"
        f" their names begin with {shown}"
    )


def read_categories(path: Path) -> Categories:
    """Read the classes from the ``categories`` of a COCO JSON file, in the order of their ids.

    Raises:
        LabkitError: the file is missing or has no valid categories.
    """
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise LabkitError(f'{path}: not a COCO JSON file: it has no "categories"')
    check_category_entries(content, path)
    return Categories.from_coco(sorted(content["categories"], key=lambda entry: entry["id"]))


def _detectron2(path: Path, weights: Mapping[str, Any], categories: Categories | None) -> Built:
    config_file = path.with_name(CONFIG)
    if not config_file.is_file():
        raise LabkitError(
            f"{path}: a Detectron2 checkpoint needs its configuration: put the {CONFIG} that"
            " Detectron2's training wrote beside it"
        )
    described = read_config(config_file)
    counts = (described.num_things, described.num_stuff)
    if categories is None and any(name.startswith("coco_2017") for name in described.datasets):
        categories = coco_panoptic() if described.num_stuff else coco_things()
    chosen = _fitting(path, categories, *counts)
    return described.config.build(chosen), detectron2.assign


def _torchvision(path: Path, weights: Mapping[str, Any], categories: Categories | None) -> Built:
    things = _rows(path, weights, "roi_heads.box_predictor.cls_score.weight") - 1  # the background
    if categories is None and things == 90:
        categories = coco_ids_1_to_90()
    return torchvision.CONFIG.build(_fitting(path, categories, things, 0)), torchvision.assign


def _detr(
    path: Path, weights: Mapping[str, Any], categories: Categories | None, content: Any
) -> Built:
    masks = any(name.startswith("mask_head.") for name in weights)
    depth = 101 if any("layer3.22." in name for name in weights) else 50
    base = PRESETS[f"detr_{'panoptic_' if masks else ''}r{depth}"]
    assert isinstance(base, DETRConfig)
    # The weights are the same with and without dilation; DETR's trainings record their options.
    options = content.get("args") if isinstance(content, dict) else None
    if isinstance(options, argparse.Namespace) and getattr(options, "dilation", False):
        base = replace(base, backbone=replace(base.backbone, kind="dc5"))
    prefix = "detr." if masks else ""
    ids = _rows(path, weights, f"{prefix}class_embed.weight") - 1  # no object
    queries = _rows(path, weights, f"{prefix}query_embed.weight")
    if categories is None:
        published = {91: coco_things, 250: coco_panoptic}
        known = published.get(ids)
        categories = (
            known() if known else Categories(Category(i, f"class {i}", True) for i in range(1, ids))
        )
    beyond = [c for c in categories if c.id >= ids]
    if beyond:
        raise LabkitError(
            f"{path}: its outputs are category ids below {ids}; {beyond[0].name} has the id"
            f" {beyond[0].id}"
        )
    return replace(base, num_ids=ids, num_queries=queries).build(categories), detr.assign


def _upsnet(path: Path, weights: Mapping[str, Any], categories: Categories | None) -> Built:
    deformable = any("res5" in n and "conv2_offset" in n for n in weights)
    depth = 101 if any(".res4.layers.22." in n or "res4.22." in n for n in weights) else 50
    layers = {n.split("fcn_subnet.conv.")[1][0] for n in weights if "fcn_subnet.conv." in n}
    cityscapes = len(layers) == 2
    if cityscapes:
        name = f"upsnet_r{depth}_cityscapes"
    else:
        name = "upsnet_r101_dcn" if deformable else "upsnet_r50"
    config = PRESETS[name]
    assert isinstance(config, UPSNetConfig)
    things = _rows(path, weights, "rcnn.cls_score.weight") - 1
    stuff = _rows(path, weights, "fcn_head.score.weight") - things
    if categories is None and (things, stuff) in ((80, 53), (8, 11)):
        categories = coco_panoptic() if things == 80 else cityscapes_panoptic()
    return config.build(_fitting(path, categories, things, stuff)), upsnet.assign


def _rows(path: Path, weights: Mapping[str, Any], name: str) -> int:
    """Return the number of rows of a weight, which tells the number of classes."""
    shape = tuple(getattr(weights.get(name), "shape", ()))
    rows = int(shape[0]) if shape else 0
    if rows < 2:
        raise LabkitError(f"{path}: {name} is missing or has no rows; the file is incomplete")
    return rows


def _fitting(path: Path, categories: Categories | None, things: int, stuff: int) -> Categories:
    """Return the classes, or ones that are named by their numbers.

    Raises:
        LabkitError: their number is not the model's.
    """
    if categories is None:
        return Categories(
            Category(i, f"{'class' if i <= things else 'stuff'} {i}", i <= things)
            for i in range(1, things + stuff + 1)
        )
    if stuff == 0:  # a detector; the data set may have stuff as well
        categories = Categories(categories[label] for label in categories.things)
    given = (len(categories.things), len(categories.stuff))
    if given != (things, stuff):
        raise LabkitError(
            f"{path}: its classes are {things} things and {stuff} stuff; the categories given are"
            f" {given[0]} and {given[1]}"
        )
    return categories
