"""In which precision a network computes: chosen for one call, by an option, or by the environment.

Layers compute in it; what leaves a network (scores, boxes, losses) is float32 in any case.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from labkit.errors import LabkitError

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
VARIABLE = "LABKIT_PRECISION"
"""Environment variable: what ``None`` stands for in this process and the ones it starts."""


def autocast(device: torch.device, precision: str | None) -> AbstractContextManager[object]:
    """A block in which a network computes in a precision; None: as the environment says, float32.

    Raises:
        LabkitError: see :func:`check_precision`.
    """
    name = precision or os.environ.get(VARIABLE) or "float32"
    check_precision(name, device)
    if name == "float32":
        return nullcontext()  # the layers' own precision, or that of a caller's block
    return torch.autocast(device.type, getattr(torch, name))


def training_precision(device: torch.device, precision: str | None) -> str:
    """The precision to train in; None: as the environment says, else a GPU's half precision.

    Raises:
        LabkitError: see :func:`check_precision`.
    """
    name = precision or os.environ.get(VARIABLE)
    if not name:
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    check_precision(name, device)
    return name


def check_precision(name: str, device: torch.device) -> None:
    """Refuse what a device does not have.

    Raises:
        LabkitError: no such precision, or not on this device.
    """
    if name not in PRECISIONS:
        raise LabkitError(f"--precision: {name!r} is not one of {', '.join(PRECISIONS)}")
    if name == "float16" and device.type == "cpu":
        raise LabkitError("--precision float16 is for GPUs; on the CPU take bfloat16 or float32")
    if name == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise LabkitError("--precision bfloat16: this GPU has none; take float16 or float32")
