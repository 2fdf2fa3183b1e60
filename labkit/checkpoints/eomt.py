"""Loading the published weights of EoMT (T. Kerssies et al., CVPR 2025), with DINOv2 backbones.

They fit ``eomt_small_640`` and similar presets. The weights' licence is that of their model
cards (huggingface.co/tue-mps); the code is MIT, DINOv2 Apache 2.0. Files with DINOv3 in their
names are differences to Meta's own weights and do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.checkpoints.key_map import KeyMap
from labkit.checkpoints.safe_unpickle import read_state_dict
from labkit.models.mask2former.eomt import EoMT

NAMES = KeyMap(
    rules=((r"backbone\.", "network.encoder.backbone."), (r"", "network.")),
    # Mean and deviation of the colours follow from the configuration.
    dropped=r"network\.encoder\.pixel_(mean|std)|criterion\.empty_weight",
)
"""The original's names of labkit's parameters."""


def load(path: Path, model: EoMT) -> None:
    """Load published weights.

    Args:
        path: ``pytorch_model.bin``, a state dict.
        model: a model of the file's preset; changed only if all names and shapes fit.

    Raises:
        LabkitError: the file is missing, damaged or contains code, or names or shapes differ; the
            message lists them.
    """
    assign(path, read_state_dict(path), model)


def assign(path: Path, weights: Mapping[str, Any], model: EoMT) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the tensors by the original's names.
        model: changed only if all names and shapes fit.

    Raises:
        LabkitError: names or shapes differ.
    """
    NAMES.load(path, weights, model)
