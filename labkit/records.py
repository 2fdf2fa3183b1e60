"""Numbers that a notebook claims, kept in its outputs where the runner finds them."""

from __future__ import annotations

import math
import sys
from typing import Any

from labkit.errors import LabkitError

RECORD_MIME = "application/vnd.labkit.record+json"
MAX_LIST = 64
MAX_NAME = 80

Scalar = bool | int | float | str
Recorded = Scalar | list[Scalar]


def record(name: str, value: Any) -> None:
    """Record a number that the notebook claims, and show it.

    In a notebook the value is displayed as text and attached to the cell's output under
    ``application/vnd.labkit.record+json``; `labkit run` collects it from there for the report
    and compares it with ``notebooks/expected.toml``. Elsewhere it is printed.
    A name recorded again replaces the earlier value, so that a cell can be run twice.

    Args:
        name: what the number is, one line of at most 80 characters.
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
    text = f"{name} = {format_value(plain)}"
    if not _in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text, RECORD_MIME: {"name": name, "value": plain}}, raw=True)


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
        raise LabkitError(f"record {name!r}: the value is {value}; only finite numbers are claims")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise LabkitError(
        f"record {name!r}: a value of type {type(value).__name__}; "
        "record a number, a string or a flat list of them"
    )


def _in_notebook() -> bool:
    # A program that never imported IPython is not in a notebook, and need not import it to know.
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
