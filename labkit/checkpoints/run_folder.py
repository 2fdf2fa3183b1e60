"""The folder of a training run: settings, weights and the state to resume from.

run.json             preset, categories, data, settings
model.safetensors    the weights, once the run is complete
last.pt              the state to resume from
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from labkit.checkpoints.weights import load_weights
from labkit.datasets.json_fields import check_category_entries, json_excerpt, read_json_file
from labkit.errors import LabkitError
from labkit.models.backbones.frozen_norm import freeze_norms
from labkit.models.mask2former.eomt import EoMTConfig
from labkit.models.presets import PRESETS, build
from labkit.models.semantic.deeplab import DeepLabConfig
from labkit.models.semantic.fcn import FCNConfig
from labkit.structures import Categories
from labkit.system.atomic_write import atomic_write

WEIGHTS, STATE = "model.safetensors", "last.pt"

FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "preset": ((str,), "a text"),
    "categories": ((list,), "a list"),
    "data": ((str,), "a text"),
    "split": ((str,), "a text"),
    "short_side": ((int, NoneType), "a whole number or null"),
    "init": ((list,), 'a list, such as ["imagenet"], or [] for random weights'),
    "train": ((dict,), "an object"),
}
"""Fields of ``run.json``: their types, and the types' names in messages."""

LONG_TO_SHORT = 1333 / 800
"""Ratio of the usual limits of the two sides, which other sizes keep."""


@dataclass(frozen=True)
class Run:
    """Description of a training run, stored as ``run.json``.

    Attributes:
        preset: name of the model's preset.
        categories: categories of the training data.
        data, split: names of the training data, for :func:`labkit.datasets.registry.open_dataset`.
        short_side: short side to which images are resized, in training and prediction; None for
            the preset's.
        init: initial weights, if any, in the order in which they are copied.
        train: settings of the training.
    """

    preset: str
    categories: Categories
    data: str
    split: str
    short_side: int | None
    init: tuple[str, ...]
    train: dict[str, Any]

    def build(self) -> nn.Module:
        """Build the model with newly initialised weights.

        Raises:
            LabkitError: unknown preset, or it does not resize its images.
        """
        if self.short_side is None:
            return build(self.preset, self.categories)
        config = PRESETS.get(self.preset)
        if isinstance(config, FCNConfig | DeepLabConfig):
            raise LabkitError(f"{self.preset}: takes images as they are; leave the short side out")
        if isinstance(config, EoMTConfig):
            raise LabkitError(
                f"{self.preset}: its input is {config.vit.image_size} pixels wide and high; leave"
                " the short side out"
            )
        if not 16 <= self.short_side <= 4096:
            raise LabkitError(f"short side {self.short_side}: must be in 16..4096 pixels")
        if config is None:
            return build(self.preset, self.categories)  # raises an error that lists the presets
        long = round(self.short_side * LONG_TO_SHORT)
        preprocessing = replace(
            config.preprocessing, resize="pillow", min_size=self.short_side, max_size=long
        )
        return replace(config, preprocessing=preprocessing).build(self.categories)


def save_run(folder: Path, run: Run) -> None:
    """Write ``run.json`` before the training starts or resumes.

    Raises:
        LabkitError: the folder holds weights of another run, or cannot be written.
    """
    path = folder / "run.json"
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    content = json.loads(json.dumps({**fields, "categories": run.categories.to_coco()}))
    if path.exists() and any((folder / name).exists() for name in (STATE, WEIGHTS)):
        before, now = _flat(_read(path)), _flat(content)
        changed = [f"{k} was {before.get(k)}, is {v}" for k, v in now.items() if before.get(k) != v]
        if changed:
            raise LabkitError(
                f"{path}: holds a run with other settings ({'; '.join(changed)}). Train into"
                " another folder, or delete this one."
            )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Flatten a run's settings, with categories by name, for a short message."""
    names = ", ".join(c["name"] for c in content.get("categories", []))
    return {**content, **content.get("train", {}), "categories": names, "train": None}


def read_run(path: Path) -> Run:
    """Read the ``run.json`` that :func:`save_run` wrote.

    Args:
        path: the folder, or a file in it.

    Raises:
        LabkitError: ``run.json`` is missing or damaged.
    """
    file = (path if path.is_dir() else path.parent) / "run.json"
    if not file.exists():
        raise LabkitError(f"{path}: not from `labkit train`: there is no {file}")
    content = _read(file)
    categories = Categories.from_coco(content["categories"])
    return Run(**{**content, "categories": categories, "init": tuple(content["init"])})


def load_run(path: Path) -> nn.Module:
    """Load the trained model in evaluation mode; of an unfinished run, the last saved state.

    Batch norms become frozen ones, as further training needs them.

    Args:
        path: the folder, or a weights file in it.

    Raises:
        LabkitError: the folder has no run, no weights yet, or weights of another model.
    """
    run = read_run(path)
    try:
        model = run.build()
    except LabkitError as error:
        raise LabkitError(f"{path}: run.json: {error}") from None
    file = path / WEIGHTS if path.is_dir() else path
    state = path / STATE
    if file.exists() or not state.exists():
        load_weights(file, model)
    else:
        try:
            model.load_state_dict(torch.load(state, map_location="cpu", weights_only=True)["model"])
        except Exception as error:  # damaged bytes fail in as many ways as an unpickler has steps
            raise LabkitError(f"{state}: damaged, or of another model ({error!r})") from None
    freeze_norms(model)
    return model.eval()


def start_from(model: nn.Module, weights: nn.Module, part: str = "") -> list[str]:
    """Copy the weights of a trained model, except layers that it lacks or that differ in shape.

    Examples are the semantic branch that a panoptic model adds to a Mask R-CNN, and the
    classification layers if the number of classes differs.

    Args:
        model: the model to train.
        weights: the trained model.
        part: part of both models to copy, such as ``backbone``; empty for everything.

    Returns:
        The names of the parameters that were not copied.

    Raises:
        LabkitError: the trained model has parameters that ``model`` lacks, or lacks ``part``; or it
            expects images in other numbers.
    """
    _require_same_normalisation(model, weights)
    mine: dict[str, Tensor] = model.state_dict()
    theirs: dict[str, Tensor] = weights.state_dict()
    if part:
        theirs = {name: value for name, value in theirs.items() if name.startswith(f"{part}.")}
        if not theirs:
            parts = sorted({name.split(".")[0] for name in weights.state_dict()})
            raise LabkitError(
                f"the weights to start from have no part {part!r}; they have {', '.join(parts)}"
            )
    unknown = sorted(theirs.keys() - mine.keys())
    if unknown:
        raise LabkitError(
            f"the weights to start from are of another architecture: {len(unknown)} names are"
            f" unknown to this model, such as {', '.join(unknown[:3])}"
        )
    fresh = [n for n in mine if n not in theirs or mine[n].shape != theirs[n].shape]
    model.load_state_dict({k: v for k, v in theirs.items() if k not in fresh}, strict=False)
    return fresh


def _require_same_normalisation(model: nn.Module, weights: nn.Module) -> None:
    """Refuse weights for images in other numbers: they would load, and mean nothing."""
    ours, theirs = (
        getattr(getattr(network, "config", None), "preprocessing", None)
        for network in (model, weights)
    )
    if ours is None or theirs is None:
        return
    if (ours.bgr, ours.mean, ours.std) == (theirs.bgr, theirs.mean, theirs.std):
        return
    raise LabkitError(
        "the weights to start from expect images with channels in the order"
        f" {'BGR' if theirs.bgr else 'RGB'}, mean {theirs.mean} and std {theirs.std}; this model"
        f" has {'BGR' if ours.bgr else 'RGB'}, mean {ours.mean} and std {ours.std}. Start from"
        " weights of the same project, such as mask_rcnn_R_50_FPN_3x for mask_rcnn_r50"
    )


def modules_of(names: Sequence[str], model: nn.Module) -> list[str]:
    """Name the modules of parameters in short: a module in place of all its parts."""
    chosen, found = set(names), []

    def visit(module: nn.Module, prefix: str) -> None:
        inside = {f"{prefix}{name}" for name in module.state_dict()}
        if inside and inside <= chosen:
            found.append(prefix.rstrip("."))
            return
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        found.extend(f"{prefix}{name}" for name, _ in own if f"{prefix}{name}" in chosen)
        for name, child in module.named_children():
            visit(child, f"{prefix}{name}.")

    visit(model, "")
    return found


def _read(path: Path) -> dict[str, Any]:
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise LabkitError(f"{path}: damaged: it is not a JSON object")
    for key, (kinds, what) in FIELDS.items():
        if type(content.get(key, ...)) not in kinds:
            found = f"is {json_excerpt(content[key])}" if key in content else "is missing"
            raise LabkitError(
                f'{path}: damaged, or of another version of labkit: "{key}" {found}; it must be'
                f" {what}. Correct it in an editor, or train again"
            )
    unknown = sorted(content.keys() - FIELDS.keys())
    if unknown:
        raise LabkitError(f'{path}: written by another version of labkit: it has "{unknown[0]}"')
    check_category_entries(content, path, ("name", "isthing"))
    return content
