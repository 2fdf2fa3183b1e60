"""Loading the published weights of DETR (N. Carion et al., ECCV 2020).

They fit ``detr_r50``, ``detr_panoptic_r50`` and similar presets. In panoptic checkpoints, the names
of the box network begin with ``detr.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.checkpoints.key_map import KeyMap, Rule
from labkit.checkpoints.safe_unpickle import read_state_dict
from labkit.checkpoints.torchvision import residual_block
from labkit.errors import LabkitError
from labkit.models.detr.detr import DETR
from labkit.models.preprocess import DETR_PREPROCESSING

_BODY = "backbone.0.body."


def detr_key_map(panoptic: bool) -> KeyMap:
    """Key map to DETR's parameter names, with or without a mask head."""
    prefix = "detr." if panoptic else ""
    rules: tuple[Rule, ...] = (
        (r"backbone\.stem\.conv1\.norm\.", f"{prefix}{_BODY}bn1."),
        (r"backbone\.stem\.", f"{prefix}{_BODY}"),
        (
            r"backbone\.res(\d)\.(\d+)\.(\w+)\.(.+)",
            lambda match: f"{prefix}{_BODY}{residual_block(match)}",
        ),
        (r"(bbox_attention|mask_head)\.", r"\1."),
        (r"", prefix),
    )
    return KeyMap(rules, dropped=r".*\.num_batches_tracked")


def load(path: Path, model: DETR) -> None:
    """Load published weights.

    Args:
        path: the ``.pth``; its state dict is the entry ``model``.
        model: a model of the file's preset; changed only if all names and shapes fit.

    Raises:
        LabkitError: the file is missing, damaged or contains code, names or shapes differ (the
            message lists them), or the model's preprocessing differs from DETR's.
    """
    assign(path, read_state_dict(path), model)


def assign(path: Path, weights: Mapping[str, Any], model: DETR) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the tensors by DETR's names.
        model: changed only if all names and shapes fit.
    """
    if not model.config.preprocessing.fits(DETR_PREPROCESSING):
        raise LabkitError(
            f"{path}: DETR's weights need a model with its conventions, such as detr_panoptic_r50"
        )
    panoptic = model.config.mask_channels is not None
    detr_key_map(panoptic).load(path, weights, model)
