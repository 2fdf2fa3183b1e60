"""Loading the published weights of UPSNet (Y. Xiong et al., CVPR 2019).

They fit ``upsnet_r50`` and its relatives. Their licence is non-commercial; :data:`NOTICE` says so,
and it is shown before anything is fetched and whenever such a file is loaded.

UPSNet's first class is the background, labkit's last; its box regression and its mask branch have
rows for the background that nothing reads, and they are left out. Its semantic head has stuff
before things, labkit's has things first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints.key_map import KeyMap, RowOrder, Rule
from labkit.checkpoints.safe_unpickle import read_state_dict
from labkit.errors import LabkitError
from labkit.models.preprocess import UPSNET_PREPROCESSING
from labkit.models.upsnet.upsnet import UPSNet

NOTICE = (
    "Uber Non-Commercial License: the weights of UPSNet (Copyright (c) 2018-2019 Uber Technologies,"
    " Inc.) are for non-commercial use such as research and teaching, and what is derived from them"
    " keeps that licence: https://github.com/uber-research/UPSNet/blob/master/LICENSE"
)


def _block(match: re.Match[str]) -> str:
    """Map ``res2.0.conv1.norm.weight`` to ``res2.layers.0.bn1.weight``, for every layer."""
    stage, block, layer, value = match.groups()
    norm = value.startswith("norm.")
    if layer == "shortcut":
        name = "downsample.1" if norm else "downsample.0"
    elif value.startswith("offset."):
        name = f"{layer}_offset"
    else:
        name = layer.replace("conv", "bn") if norm else layer
    rest = value.removeprefix("norm.").removeprefix("offset.")
    return f"resnet_backbone.{stage}.layers.{block}.{name}.{rest}"


_BODY = r"backbone\.bottom_up\."

_RULES: tuple[Rule, ...] = (
    (_BODY + r"stem\.conv1\.norm\.", "resnet_backbone.conv1.bn1."),
    (_BODY + r"stem\.conv1\.", "resnet_backbone.conv1.conv1."),
    (_BODY + r"(res\d)\.(\d+)\.(\w+)\.(.+)", _block),
    (r"backbone\.lateral(\d)\.", r"fpn.fpn_p\1_1x1."),
    (r"backbone\.output(\d)\.", r"fpn.fpn_p\1."),
    (r"backbone\.context\.", "fpn.fpn_gap."),
    (r"rpn\.conv\.", "rpn.conv_proposal.0."),
    (r"rpn\.objectness\.", "rpn.cls_score."),
    (r"rpn\.deltas\.", "rpn.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", "rcnn.fc6.0."),
    (r"roi_heads\.box_head\.fc2\.", "rcnn.fc7.0."),
    (r"roi_heads\.(cls_score|bbox_pred)\.", r"rcnn.\1."),
    (r"roi_heads\.mask_head\.conv(\d)\.", r"mask_branch.mask_conv\1.0."),
    (r"roi_heads\.mask_head\.deconv\.", "mask_branch.mask_deconv1.0."),
    (r"roi_heads\.mask_head\.predictor\.", "mask_branch.mask_score."),
    (r"sem_seg_head\.subnet\.(\d)\.offset\.", r"fcn_head.fcn_subnet.conv.\1.0.conv_offset."),
    (r"sem_seg_head\.subnet\.(\d)\.conv\.", r"fcn_head.fcn_subnet.conv.\1.0.conv."),
    (r"sem_seg_head\.score\.", "fcn_head.score."),
)


def upsnet_key_map(stuff: int) -> KeyMap:
    """Key map to UPSNet's parameter names and row orders, for a number of stuff classes."""
    changed = {
        "roi_heads.cls_score": RowOrder(0, lambda rows: torch.cat([rows[1:], rows[:1]])),
        "roi_heads.bbox_pred": RowOrder(4, lambda rows: rows[4:]),
        "roi_heads.mask_head.predictor": RowOrder(1, lambda rows: rows[1:]),
        "sem_seg_head.score": RowOrder(0, lambda rows: torch.cat([rows[stuff:], rows[:stuff]])),
    }
    rows = {f"{layer}.{value}": r for layer, r in changed.items() for value in ("weight", "bias")}
    # A batch norm that was trained counts its batches; a frozen one does not.
    return KeyMap(_RULES, dropped=r".*\.num_batches_tracked", rows=rows)


def load(path: Path, model: UPSNet) -> None:
    """Load published weights.

    Args:
        path: the ``.pth``: a state dict, with or without ``module.`` before its names.
        model: a model of the file's preset; changed only if all names and shapes fit. The order of
            its things and of its stuff must be the publisher's.

    Raises:
        LabkitError: the file is missing, damaged or carries code, or a name or shape is not the
            model's (the message lists which), or the model has other conventions than UPSNet.
    """
    assign(path, read_state_dict(path), model)


def assign(path: Path, weights: Mapping[str, Any], model: UPSNet) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the tensors by UPSNet's names.
        model: changed only if all names and shapes fit.
    """
    if not model.config.preprocessing.fits(UPSNET_PREPROCESSING):
        raise LabkitError(
            f"{path}: UPSNet's weights need a model with its conventions: upsnet_r50,"
            " upsnet_r101_dcn, upsnet_r50_cityscapes or upsnet_r101_cityscapes"
        )
    print(NOTICE, file=sys.stderr)
    upsnet_key_map(len(model.categories.stuff)).load(path, weights, model)
