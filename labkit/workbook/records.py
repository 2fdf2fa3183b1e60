"""Recording of numbers in a notebook, for the report of `labkit run`."""

from __future__ import annotations

import math
import os
from typing import Any

from labkit.errors import LabkitError

RECORD_MIME = "application/vnd.labkit.record+json"
RECORDING = "LABKIT_RECORDING"
"""Environment variable that `labkit run` sets in its kernels."""

MAX_LIST = 64
MAX_NAME = 80

Scalar = bool | int | float | str
Recorded = Scalar | list[Scalar]


def record(name: str, value: Any) -> None:
    """Record a number of the notebook; nothing is printed.

    Under `labkit run` the value goes with the cell's outputs, as
    ``application/vnd.labkit.record+json``: the report shows it and compares it with
    ``notebooks/expected.toml``. Elsewhere it is only checked, so that no front end has to know
    what to do with it. What a reader should see is printed beside.
    A name recorded again replaces the earlier value, so that a cell can be run twice.

    Args:
        name: name of the number, one line of at most 80 characters.
        value: a finite number, a string, or a list of at most 64 of them. NumPy and torch
            scalars and one-dimensional arrays are converted.

    Raises:
        LabkitError: the name is not one line of text, or the value is none of these.
    """
    if not isinstance(name, str) or not name.strip() or "\n" in name or len(name) > MAX_NAME:
        raise LabkitError(
            f"record: the name must be one line of 1 to {MAX_NAME} characters, not {name!r}"
        )
    plain = _plain(name, value)
    if os.environ.get(RECORDING):
        from IPython.display import display

        display({RECORD_MIME: {"name": name, "value": plain}}, raw=True)


def format_value(value: Recorded) -> str:
    """Write a recorded value for a reader: floats with six significant digits."""
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(name: str, value: Any) -> Recorded:
    if hasattr(value, "tolist"):  # NumPy and torch, scalars included
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) > MAX_LIST:
            raise LabkitError(
                f"record {name!r}: a list of {len(value)} values; at most {MAX_LIST} are recorded"
            )
        return [_scalar(name, item) for item in value]
    return _scalar(name, value)


def _scalar(name: str, value: Any) -> Scalar:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise LabkitError(f"record {name!r}: the value is {value}; it must be finite")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise LabkitError(
        f"record {name!r}: a value of type {type(value).__name__}; "
        "record a number, a string or a flat list of them"
    )
