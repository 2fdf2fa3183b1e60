"""Loading the weights of ``torchvision.models.detection.maskrcnn_resnet50_fpn``.

They fit a model of :data:`CONFIG`; those that were trained on COCO number their classes by COCO's
ids, as :func:`labkit.datasets.coco.categories.coco_ids_1_to_90` does.

torchvision's first class is the background, labkit's last. Its box regression also has a row for
the background and its mask branch a mask, which nothing ever reads; these are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.key_map import KeyMap, RowOrder, Rule
from labkit.checkpoints.safe_unpickle import read_state_dict
from labkit.errors import LabkitError
from labkit.models.preprocess import TORCHVISION_PREPROCESSING
from labkit.models.presets import PRESETS
from labkit.models.rcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig


def _config(base: MaskRCNNConfig) -> MaskRCNNConfig:
    """Configuration of ``mask_rcnn_r50`` with torchvision's choices."""
    rpn, roi_heads = base.rpn, base.roi_heads
    beta = 1 / 9
    return replace(
        base,
        preprocessing=TORCHVISION_PREPROCESSING,
        paste_by_resizing=True,
        # torchvision's frozen batch norm had no epsilon when the published weights were trained.
        backbone=replace(base.backbone, stride_in_1x1=False, eps=0.0),
        rpn=replace(
            rpn,
            round_anchors=True,
            strides_from_grid=True,
            post_nms_top_n=(2000, 1000),
            min_size=1e-3,
            smooth_l1_beta=beta,
            average_over_sampled=True,
        ),
        roi_heads=replace(
            roi_heads,
            pooler=replace(
                roi_heads.pooler,
                aligned=False,
                sampling_ratio=2,
                epsilon_inside=False,
                epsilon=1e-6,
            ),
            min_size=1e-2,
            smooth_l1_beta=beta,
            soft_mask_targets=True,
        ),
    )


_BASE = PRESETS["mask_rcnn_r50"]
assert isinstance(_BASE, MaskRCNNConfig)
CONFIG = _config(_BASE)
"""``mask_rcnn_r50`` as torchvision has it.

A model that was trained there from fresh or ImageNet weights has norms with an epsilon of 1e-5."""

_BODY = r"backbone\.bottom_up\."


def residual_block(match: re.Match[str]) -> str:
    """Map ``res2.0.conv1.norm.weight`` to ``layer1.0.bn1.weight``, for every layer of a block."""
    stage, block, layer, value = match.groups()
    norm = value.startswith("norm.")
    if layer == "shortcut":
        name = "downsample.1" if norm else "downsample.0"
    else:
        name = layer.replace("conv", "bn") if norm else layer
    return f"layer{int(stage) - 1}.{block}.{name}.{value.removeprefix('norm.')}"


def _level(match: re.Match[str]) -> str:
    blocks = "inner_blocks" if match[1] == "lateral" else "layer_blocks"
    return f"backbone.fpn.{blocks}.{int(match[2]) - 2}.0."


_RULES: tuple[Rule, ...] = (
    (_BODY + r"stem\.conv1\.norm\.", "backbone.body.bn1."),
    (_BODY + r"stem\.", "backbone.body."),
    (
        _BODY + r"res(\d)\.(\d+)\.(\w+)\.(.+)",
        lambda match: f"backbone.body.{residual_block(match)}",
    ),
    (r"backbone\.(lateral|output)(\d)\.", _level),
    (r"rpn\.conv\.", "rpn.head.conv.0.0."),
    (r"rpn\.objectness\.", "rpn.head.cls_logits."),
    (r"rpn\.deltas\.", "rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
    (r"roi_heads\.(cls_score|bbox_pred)\.", r"roi_heads.box_predictor.\1."),
    (r"roi_heads\.mask_head\.conv(\d)\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


def _background_last(rows: Tensor) -> Tensor:
    return torch.cat([rows[1:], rows[:1]])


_ROWS = {
    f"roi_heads.{layer}.{value}": rows
    for value in ("weight", "bias")
    for layer, rows in {
        "cls_score": RowOrder(0, _background_last),
        "bbox_pred": RowOrder(4, lambda rows: rows[4:]),
        "mask_head.predictor": RowOrder(1, lambda rows: rows[1:]),
    }.items()
}

# A batch norm that was trained counts its batches; a frozen one does not.
NAMES = KeyMap(_RULES, dropped=r".*\.num_batches_tracked", rows=_ROWS)
"""Key map to torchvision's names and row orders of the parameters of ``mask_rcnn_r50``."""

_EARLIER: tuple[tuple[str, str], ...] = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"roi_heads.mask_head.{i}.0.")
        for i in range(4)
    ),
)
"""Names in files of older versions of torchvision; the published file is from 2019."""


def load(path: Path, model: MaskRCNN) -> None:
    """Load torchvision's weights into a model of :data:`CONFIG`.

    Args:
        path: the published ``.pth``, ``torch.save(model.state_dict(), path)``, or a checkpoint that
            has the state dict as its entry ``model``.
        model: the model; changed only if all names and shapes fit.

    Raises:
        LabkitError: the file is missing, damaged or carries code, or a name or shape is not the
            model's (the message lists which), or the model has other conventions than torchvision.
    """
    assign(path, read_state_dict(path), model)


def assign(path: Path, weights: Mapping[str, Any], model: MaskRCNN) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the tensors by torchvision's names.
        model: changed only if all names and shapes fit.
    """
    if not model.config.preprocessing.fits(TORCHVISION_PREPROCESSING):
        raise LabkitError(
            f"{path}: torchvision's weights need a model with torchvision's conventions:"
            " labkit.checkpoints.torchvision.CONFIG.build(categories)"
        )
    NAMES.load(path, {_today(name): value for name, value in weights.items()}, model)


def _today(name: str) -> str:
    for pattern, replacement in _EARLIER:
        name = re.sub(rf"\A{pattern}", replacement, name)
    return name
