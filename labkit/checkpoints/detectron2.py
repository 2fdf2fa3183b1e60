"""Loading Detectron2 checkpoints: ``.pkl`` files of its model zoo and ``.pth`` of its trainers.

labkit's parameter names are close to Detectron2's; :data:`NAMES` maps those that differ.
Detectron2: Y. Wu et al., 2019, https://github.com/facebookresearch/detectron2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from labkit.checkpoints.key_map import KeyMap, Rule
from labkit.checkpoints.safe_unpickle import name_of, read_checkpoint, without_wrapper
from labkit.errors import LabkitError

NAMES = KeyMap(
    rules=(
        (r"backbone\.(lateral|output)", r"backbone.fpn_\1"),
        (r"rpn\.conv\.", r"proposal_generator.rpn_head.conv."),
        (r"rpn\.objectness\.", r"proposal_generator.rpn_head.objectness_logits."),
        (r"rpn\.deltas\.", r"proposal_generator.rpn_head.anchor_deltas."),
        (r"roi_heads\.(cls_score|bbox_pred)\.", r"roi_heads.box_predictor.\1."),
        (r"roi_heads\.mask_head\.conv", r"roi_heads.mask_head.mask_fcn"),
    ),
    # Older versions stored these values, which follow from the configuration.
    dropped=r"proposal_generator\.anchor_generator\.cell_anchors\.\d+|pixel_mean|pixel_std",
)
"""Detectron2's names of labkit's parameters, for R-CNN models with any backbone."""

_BACKBONE = r"(?:backbone\.bottom_up|backbone|roi_heads)\.(?=stem\.|res\d)"

_CAFFE2_LAYER = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
_CAFFE2_VALUE = {"weight": "w", "norm.weight": "bn_gamma", "norm.bias": "bn_beta"}


def _caffe2_value(name: str) -> str:
    return _CAFFE2_VALUE.get(name, name.replace("norm.", "bn_"))


_CAFFE2_RULES: tuple[Rule, ...] = (
    (_BACKBONE + r"stem\.conv1\.weight", "conv1_w"),
    (
        _BACKBONE + r"stem\.conv1\.(norm\.\w+)",
        lambda match: f"res_conv1_{_caffe2_value(match[1])}",
    ),
    (
        _BACKBONE + r"(res\d)\.(\d+)\.(\w+)\.(weight|norm\.\w+)",
        lambda match: (
            f"{match[1]}_{match[2]}_branch{_CAFFE2_LAYER[match[3]]}_{_caffe2_value(match[4])}"
        ),
    ),
)

CAFFE2_NAMES = KeyMap(_CAFFE2_RULES, dropped=r"conv1_b|(fc\d*|pred)_[wb]|.*_momentum")
"""Caffe2's names of the ImageNet backbones that initialise Detectron2's trainings."""


def load(path: Path, model: nn.Module) -> None:
    """Load a Detectron2 checkpoint into the labkit model of the same architecture.

    Args:
        path: a ``.pkl`` of the model zoo, or a ``.pth`` that Detectron2's trainer wrote.
        model: ``mask_rcnn_r50`` or a similar model; changed only if all names and shapes fit.

    Raises:
        LabkitError: the file is missing, damaged or contains code, or names or shapes differ; the
            message lists them.
    """
    assign(path, _weights(path, _read(path)), model)


def assign(path: Path, weights: Mapping[str, Any], model: nn.Module) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the arrays by Detectron2's names.
        model: changed only if all names and shapes fit.
    """
    names = {key: NAMES.name(key) for key in model.state_dict()}
    hint = f"The file looks like {architecture(weights)}, the model {architecture(names.values())}."
    NAMES.load(path, weights, model, hint=hint)


def load_backbone(path: Path, model: nn.Module) -> None:
    """Load an ImageNet backbone with Caffe2's names (Detectron2's ``MSRA/R-50.pkl`` and R-101).

    Args:
        path: the ``.pkl``.
        model: a Mask R-CNN; only its stem and ``res2`` to ``res5`` are loaded.

    Raises:
        LabkitError: as :func:`load`.
    """
    content = _read(path)
    weights = content.get("blobs", content)
    if not isinstance(weights, dict):
        raise LabkitError(f'{path}: its "blobs" are no dictionary of arrays')
    keys = [key for key in model.state_dict() if re.match(_BACKBONE, key)]
    weights = without_wrapper(weights)
    CAFFE2_NAMES.load(path, weights, model, keys, "It should hold a Caffe2 backbone.")


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a labkit state dict to Detectron2's names; save it as ``{"model": ...}``."""
    return {NAMES.name(key): value for key, value in state.items()}


def architecture(names: Iterable[str]) -> str:
    """Name the R-CNN architecture that has these parameter names of Detectron2."""
    all_names = "\n".join(names)
    depth = "R101" if ".res4.22." in all_names else "R50" if ".res4.5." in all_names else "tiny"
    if "sem_seg_head." in all_names:
        kind = "Panoptic FPN"
    else:
        kind = "Mask R-CNN" if "roi_heads.mask_head." in all_names else "Faster R-CNN"
    if "fpn_lateral" in all_names:
        return f"{kind} {depth}-FPN"
    return f"{kind} {depth}-{'C4' if 'roi_heads.res5.' in all_names else 'DC5'}"


def _read(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path)
    if not isinstance(content, dict):
        raise LabkitError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _weights(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays by name, without the prefix of a data-parallel wrapper."""
    weights = content.get("model")
    if not isinstance(weights, dict):
        found = ", ".join(map(name_of, list(content)[:5])) or "nothing"
        raise LabkitError(
            f'{path}: not a Detectron2 checkpoint: it has no "model" among {found}; an ImageNet'
            " backbone is read by labkit.checkpoints.detectron2.load_backbone"
        )
    return without_wrapper(weights)
