"""Comparison of an answer with the reference, with an explanation for the student.

The reference determines the types: a list of numbers, another dtype, or an integer instead of a
float is right if the values are. Explanations are about shape, type and distance and never contain
a value of the reference or of the hidden input. No answer makes this module raise an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from labkit.grading.authoring.probes import Tolerance, Value

MAX_DEPTH = 32  # levels of lists within lists
BOOLEAN, INTEGER, FLOAT = "b", "iu", "f"


class Mismatch(Exception):
    """An answer differs from the reference; the message says how."""


def find_mismatch(answer: Value, reference: Value, tolerance: Tolerance) -> str | None:
    """Return what is wrong with an answer, or None if it is right.

    Args:
        answer: any value; plain Python values and NumPy arrays can be right.
        reference: tensors, arrays, numbers, strings, None, lists and dictionaries of these.
        tolerance: for floating-point references; integers, booleans and text must be equal. For
            an answer in half precision the relative tolerance is at least two of its rounding
            steps.

    Raises:
        TypeError: the *reference* has another type, which is an error of the instructor.
    """
    _require_comparable(reference)
    try:
        _compare(answer, reference, tolerance, "", 0)
    except Mismatch as found:
        return str(found)
    except Exception as error:  # an answer that cannot be compared is wrong
        return f"{describe_type(answer)} that cannot be compared ({type(error).__name__})"
    return None


def describe_type(value: Value) -> str:
    """Describe the type of an answer without its content."""
    if value is None:
        return "None"
    exact = type(value)
    if exact is bool or exact is np.bool_:
        return "a truth value"
    if exact is int and not -(2**63) <= value < 2**64:
        return "a whole number beyond 64 bits"
    if exact in (int, float) or issubclass(exact, np.number):
        return "a number"
    if exact is str:
        return "a text"
    if exact in (list, tuple):
        return f"a {exact.__name__} of length {len(value)}"
    if exact is dict:
        return f"a dictionary with {len(value)} entries"
    if exact is np.ndarray:
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"a value of type {exact.__name__[:40]}"


def _require_comparable(reference: Value) -> None:
    if isinstance(reference, Mapping):
        for name, value in reference.items():
            if not isinstance(name, bool | int | float | str | None):
                raise TypeError(f"a dictionary with the key {name!r}; keys are numbers or strings")
            _require_comparable(value)
    elif isinstance(reference, list | tuple):
        for value in reference:
            _require_comparable(value)
    elif reference is not None and not isinstance(reference, str):
        array = _plain(reference)
        if array.dtype.kind not in BOOLEAN + INTEGER + FLOAT:
            raise TypeError(f"a reference of type {type(reference).__name__} cannot be compared")


def _compare(answer: Value, reference: Value, tolerance: Tolerance, place: str, level: int) -> None:
    if level > MAX_DEPTH:
        raise Mismatch(f"{place}nested too deep")
    if isinstance(reference, Mapping):
        _compare_entries(answer, reference, tolerance, place, level)
    elif isinstance(reference, list | tuple):
        if type(answer) not in (list, tuple) and not (
            isinstance(answer, np.ndarray) and answer.ndim > 0
        ):
            raise Mismatch(
                f"{place}{describe_type(answer)} instead of a {type(reference).__name__}"
            )
        if len(answer) != len(reference):
            raise Mismatch(f"{place}length {len(answer)} instead of {len(reference)}")
        for number, (mine, right) in enumerate(zip(answer, reference, strict=True), 1):
            _compare(mine, right, tolerance, f"{place}entry {number}: ", level + 1)
    elif reference is None:
        if answer is not None:
            raise Mismatch(f"{place}{describe_type(answer)} instead of None")
    elif isinstance(reference, str):
        if type(answer) is not str:
            raise Mismatch(f"{place}{describe_type(answer)} instead of a text")
        if answer != reference:
            raise Mismatch(f"{place}a different text")
    else:
        _compare_numbers(answer, _plain(reference), tolerance, place)


def _compare_entries(
    answer: Value, reference: Mapping[Any, Value], tolerance: Tolerance, place: str, level: int
) -> None:
    if type(answer) is not dict:
        raise Mismatch(f"{place}{describe_type(answer)} instead of a dictionary")
    missing = [name for name in reference if name not in answer]
    if missing:
        what = (
            f"the entry {missing[0]!r} is missing"
            if _is_word(missing[0])
            else "entries are missing"
        )
        raise Mismatch(f"{place}{what}")
    if len(answer) > len(reference):
        raise Mismatch(f"{place}{len(answer)} entries instead of {len(reference)}")
    for name, right in reference.items():
        inner = f"{place}entry {name!r}: " if _is_word(name) else f"{place}an entry: "
        _compare(answer[name], right, tolerance, inner, level + 1)


def _is_word(key: Any) -> bool:
    # A key that is an identifier is part of the task; another may be part of the answer.
    return isinstance(key, str) and key.isidentifier()


def _compare_numbers(answer: Value, right: np.ndarray, tolerance: Tolerance, place: str) -> None:
    wanted = "a number" if right.ndim == 0 else f"an array of shape {right.shape}"
    if not isinstance(answer, bool | int | float | list | tuple | np.ndarray | np.generic):
        raise Mismatch(f"{place}{describe_type(answer)} instead of {wanted}")
    try:
        mine = np.asarray(answer)
    except (ValueError, TypeError, OverflowError):
        raise Mismatch(f"{place}{describe_type(answer)} instead of {wanted}") from None
    if mine.dtype.kind not in BOOLEAN + INTEGER + FLOAT:
        raise Mismatch(f"{place}{describe_type(answer)} instead of {wanted}")
    if right.ndim == 0 and mine.size == 1:
        mine = mine.reshape(())
    if mine.shape != right.shape:
        raise Mismatch(f"{place}shape {mine.shape} instead of {right.shape}")
    if right.dtype.kind in FLOAT:
        _compare_floats(mine, right, tolerance, place)
        return
    # Equality of booleans, integers and whole floats is exact.
    different = int(np.count_nonzero(mine != right))
    if different:
        what = "a different value" if right.ndim == 0 else _places(different, right)
        raise Mismatch(f"{place}{what}")


def _compare_floats(mine: np.ndarray, right: np.ndarray, tolerance: Tolerance, place: str) -> None:
    rtol = tolerance.rtol
    if mine.dtype.kind in FLOAT:
        rtol = max(rtol, 2 * float(np.finfo(mine.dtype).eps))
    mine, right = mine.astype(np.float64), right.astype(np.float64)
    nowhere = np.isnan(mine) & ~np.isnan(right)
    if nowhere.any():
        raise Mismatch(f"{place}{_places(int(nowhere.sum()), right, 'NaN')}")
    with np.errstate(all="ignore"):
        distance = np.abs(mine - right)
        near = distance <= tolerance.atol + rtol * np.abs(right)
    # No finite number is near an infinite one, although inf <= inf is true.
    near &= np.isfinite(mine) & np.isfinite(right)
    near |= (mine == right) | (np.isnan(mine) & np.isnan(right))
    if near.all():
        return
    wrong = int(np.count_nonzero(~near))
    finite = distance[np.isfinite(distance) & ~near]
    if finite.size == 0:
        raise Mismatch(f"{place}{_places(wrong, right, 'infinite or undefined')}")
    allowed = _short(tolerance.atol) + (f" + {_short(rtol)} × |value|" if rtol else "")
    # Only the power of ten: for an answer of zeros, the difference is the reference.
    power = math.floor(math.log10(finite.max()))
    size = f"{_short(10.0**power)} to {_short(10.0 ** (power + 1))}"
    places = "" if right.ndim == 0 else f" ({_places(wrong, right)})"
    raise Mismatch(f"{place}largest difference {size}, allowed {allowed}{places}")


def _short(number: float) -> str:
    return f"{number:.2g}".replace("e-0", "e-").replace("e+0", "e")


def _places(number: int, array: np.ndarray, what: str = "different") -> str:
    return what if array.ndim == 0 else f"{what} in {number} of {array.size} places"


def _plain(value: Value) -> np.ndarray:
    """Return a trusted tensor, array or number as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return np.asarray(value)
