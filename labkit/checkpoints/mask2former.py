"""Loading the published weights of Mask2Former (B. Cheng et al., CVPR 2022).

They fit ``mask2former_r50`` and similar presets. Files of the first months have other names, which
the original renames as it loads; both are known here. The weights' licence is CC BY-NC 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.checkpoints.key_map import KeyMap
from labkit.checkpoints.safe_unpickle import read_checkpoint, state_dict_of
from labkit.errors import LabkitError
from labkit.models.mask2former.mask2former import Mask2Former
from labkit.models.preprocess import MASK2FORMER_PREPROCESSING

_HEAD = "sem_seg_head."
_PIXELS = f"{_HEAD}pixel_decoder."
_QUERIES = f"{_HEAD}predictor."

NAMES = KeyMap(
    rules=(
        (r"pixel_decoder\.level_embed", f"{_PIXELS}transformer.level_embed"),
        (r"pixel_decoder\.layers\.", f"{_PIXELS}transformer.encoder.layers."),
        (r"pixel_decoder\.(input_proj|mask_features)\.", rf"{_PIXELS}\1."),
        (r"pixel_decoder\.lateral\.0\.", f"{_PIXELS}adapter_1."),
        (r"pixel_decoder\.lateral\.1\.", f"{_PIXELS}adapter_1.norm."),
        (r"pixel_decoder\.output\.0\.", f"{_PIXELS}layer_1."),
        (r"pixel_decoder\.output\.1\.", f"{_PIXELS}layer_1.norm."),
        (
            r"decoder\.layers\.(\d+)\.cross_attn\.",
            rf"{_QUERIES}transformer_cross_attention_layers.\1.multihead_attn.",
        ),
        (
            r"decoder\.layers\.(\d+)\.norm1\.",
            rf"{_QUERIES}transformer_cross_attention_layers.\1.norm.",
        ),
        (
            r"decoder\.layers\.(\d+)\.self_attn\.",
            rf"{_QUERIES}transformer_self_attention_layers.\1.self_attn.",
        ),
        (
            r"decoder\.layers\.(\d+)\.norm2\.",
            rf"{_QUERIES}transformer_self_attention_layers.\1.norm.",
        ),
        (r"decoder\.layers\.(\d+)\.(linear\d)\.", rf"{_QUERIES}transformer_ffn_layers.\1.\2."),
        (r"decoder\.layers\.(\d+)\.norm3\.", rf"{_QUERIES}transformer_ffn_layers.\1.norm."),
        (r"decoder\.norm\.", f"{_QUERIES}decoder_norm."),
        (r"decoder\.", _QUERIES),
    ),
    dropped=r"criterion\.empty_weight",
)
"""The original's names of labkit's parameters; the backbone's are the same."""


def with_current_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the entries of an early file as the original does.

    Its pixel decoder stood directly in the head, and its queries were called ``static_query``.
    """
    renamed = {}
    for name, value in weights.items():
        new = name.replace(f"{_QUERIES}static_query", f"{_QUERIES}query_feat")
        if new.startswith(_HEAD) and not new.startswith((_PIXELS, _QUERIES)):
            new = new.replace(_HEAD, _PIXELS, 1)
        renamed[new] = value
    return renamed


def load(path: Path, model: Mask2Former) -> None:
    """Load published weights.

    Args:
        path: the ``.pkl``; its state dict is the entry ``model``.
        model: a model of the file's preset; changed only if all names and shapes fit.

    Raises:
        LabkitError: the file is missing, damaged or contains code, or names or shapes differ; the
            message lists them.
    """
    assign(path, state_dict_of(path, read_checkpoint(path)), model)


def assign(path: Path, weights: Mapping[str, Any], model: Mask2Former) -> None:
    """Load weights that are already read, as :func:`load` does.

    Args:
        path: their file, for messages.
        weights: the arrays by the original's names.
        model: changed only if all names and shapes fit.

    Raises:
        LabkitError: names or shapes differ, or the model's preprocessing is not Mask2Former's.
    """
    if not model.config.preprocessing.fits(MASK2FORMER_PREPROCESSING):
        raise LabkitError(
            f"{path}: Mask2Former's weights need a model with its conventions, such as"
            " mask2former_r50"
        )
    NAMES.load(path, with_current_names(weights), model)
