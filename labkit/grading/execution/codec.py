"""Encoding of values that enter or leave the sandbox: strict JSON with base64 safetensors.

Nothing is unpickled, and decoded values are NumPy arrays and plain Python. The module imports
nothing of labkit, because its source is also executed inside the sandbox, where `labkit/grading` is
hidden.

An encoded value is ``{"value": tree, "arrays": text}``. In a tree, null, booleans, integers, finite
floats, strings and lists encode themselves; an object with one key encodes the rest:
``{"float": "nan"}``, ``{"tuple": [...]}``, ``{"dict": [[key, tree], ...]}`` and
``{"tensor": [number, dtype]}`` or ``{"ndarray": [number, dtype]}`` for an entry of the arrays.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_DEPTH = 32  # levels of lists within lists
MAX_VALUES = 300_000  # values that are not in an array
MAX_STRING = 10_000_000  # characters of a string
MAX_INTEGER = 10**300  # no answer needs larger integers
BUDGET = 64_000_000  # bytes of all arrays and strings

SPECIAL_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
STORED_AS = {"bfloat16": "float32"}  # NumPy has no bfloat16


class CodecError(ValueError):
    """A value that cannot be encoded or decoded; the message says why."""


def encode(value: Any, budget: int = BUDGET) -> dict[str, Any]:
    """Encode a value.

    Args:
        value: tensors, arrays, NumPy's and Python's numbers, booleans, strings, None, and lists,
            tuples and dictionaries with plain keys of these. Tensors may be on any device, need
            gradients, and be of any layout; they arrive contiguous.
        budget: bytes that its arrays and strings may have.

    Raises:
        CodecError: the value has another type, is too large, or is nested too deeply.
    """
    encoder = _Encoder(budget)
    tree = encoder.tree(value, 0)
    return {"value": tree, "arrays": encoder.packed()}


def decode(
    payload: Any, budget: int = BUDGET, tensor: Callable[[np.ndarray, str], Any] | None = None
) -> Any:
    """Decode an encoded value; the payload is untrusted.

    Args:
        payload: any parsed JSON.
        budget: bytes that its arrays and strings may have.
        tensor: converts an array and the name of its dtype to a tensor; by default tensors are
            returned as arrays, bfloat16 as float32.

    Raises:
        CodecError: the payload is malformed, too large, or nested too deeply.
    """
    if type(payload) is not dict or set(payload) != {"value", "arrays"}:
        raise CodecError("not an encoded value")
    decoder = _Decoder(_unpack(payload["arrays"], budget), budget, tensor)
    return decoder.value(payload["value"], 0)


def loads(text: Any, longest: int) -> Any:
    """Parse JSON from the sandbox, without NaN and repeated keys, of limited depth and length.

    Raises:
        CodecError: the text is not such JSON.
    """
    if type(text) is not str or len(text) > longest:
        raise CodecError("not a text, or too long")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError, MemoryError) as error:
        raise CodecError(f"malformed JSON ({type(error).__name__})") from None


def dumps(value: Any) -> str:
    """Serialize JSON for :func:`loads`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


class _Encoder:
    def __init__(self, budget: int) -> None:
        self.budget = self.left = budget
        self.count = 0
        self.arrays: dict[str, np.ndarray] = {}

    def tree(self, value: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            raise CodecError("nested too deeply" if depth > MAX_DEPTH else "too many values")
        if value is None or isinstance(value, (bool, np.bool_)):
            return None if value is None else bool(value)
        if isinstance(value, (np.ndarray, np.generic)) or is_tensor(value):
            return self.array(value)
        if isinstance(value, int):
            if abs(value) > MAX_INTEGER:
                raise CodecError("an integer that is too large")
            return int(value)
        if isinstance(value, float):
            value = float(value)
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, str):
            self.spend(len(value))
            return str(value)
        if isinstance(value, list):
            return [self.tree(entry, depth + 1) for entry in value]
        if isinstance(value, tuple):
            return {"tuple": [self.tree(entry, depth + 1) for entry in value]}
        if isinstance(value, dict):
            pairs = [[_key(key), self.tree(entry, depth + 1)] for key, entry in value.items()]
            return {"dict": pairs}
        raise CodecError(f"a value of type {type(value).__name__}")

    def array(self, value: Any) -> Any:
        tensor = is_tensor(value)
        # The size first: an expanded or sparse tensor is small until it is copied.
        self.spend(_bytes_of(value, tensor))
        array = _numpy(value) if tensor else np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise CodecError(f"an array of {array.dtype.name}")
        name = str(value.dtype).removeprefix("torch.") if tensor else array.dtype.name
        number = str(len(self.arrays))
        # safetensors needs C order and the byte order of this machine.
        native = array.dtype.newbyteorder("=")
        self.arrays[number] = np.array(array, dtype=native, order="C", copy=True)
        return {"tensor" if tensor else "ndarray": [int(number), name]}

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise CodecError(f"larger than {self.budget / 1e6:g} MB")

    def packed(self) -> str:
        from safetensors.numpy import save

        try:
            return base64.b64encode(save(self.arrays)).decode("ascii") if self.arrays else ""
        except Exception as error:
            raise CodecError(f"an array that safetensors refuses ({error})") from None


class _Decoder:
    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        budget: int,
        tensor: Callable[[np.ndarray, str], Any] | None,
    ) -> None:
        self.arrays, self.left, self.tensor = arrays, budget, tensor
        self.count = 0

    def value(self, tree: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            raise CodecError("nested too deeply" if depth > MAX_DEPTH else "too many values")
        kind = type(tree)
        if tree is None or kind is bool:
            return tree
        if kind is int and abs(tree) <= MAX_INTEGER:
            return tree
        if kind is float and math.isfinite(tree):
            return tree
        if kind is str:
            self.left -= len(tree)
            if len(tree) > MAX_STRING or self.left < 0:
                raise CodecError("too long a string")
            return tree
        if kind is list:
            return [self.value(entry, depth + 1) for entry in tree]
        if kind is dict and len(tree) == 1:
            ((tag, content),) = tree.items()
            return self.tagged(tag, content, depth)
        raise CodecError("not an encoded value")

    def tagged(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "float" and type(content) is str and content in SPECIAL_FLOATS:
            return SPECIAL_FLOATS[content]
        if type(content) is list:
            if tag == "tuple":
                return tuple(self.value(entry, depth + 1) for entry in content)
            if tag == "dict":
                return self.dictionary(content, depth)
            if tag in {"tensor", "ndarray"}:
                return self.array(tag, content)
        raise CodecError("not an encoded value")

    def dictionary(self, pairs: list[Any], depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in pairs:
            if type(pair) is not list or len(pair) != 2:
                raise CodecError("not an encoded value")
            key = self.value(pair[0], MAX_DEPTH)
            if isinstance(key, list) or key in found:
                raise CodecError("a dictionary with such keys")
            found[key] = self.value(pair[1], depth + 1)
        return found

    def array(self, tag: str, content: list[Any]) -> Any:
        if len(content) != 2 or type(content[0]) is not int or type(content[1]) is not str:
            raise CodecError("not an encoded value")
        array = self.arrays.pop(str(content[0]), None)
        if array is None or array.dtype.name != STORED_AS.get(content[1], content[1]):
            raise CodecError("a missing array")
        if tag == "tensor" and self.tensor is not None:
            return self.tensor(array, content[1])
        return array


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _bytes_of(value: Any, tensor: bool) -> int:
    if not tensor:
        return int(value.nbytes) if isinstance(value, np.generic) else value.size * value.itemsize
    size = value.element_size() * (
        2 if str(value.dtype) in map("torch.{}".format, STORED_AS) else 1
    )
    return int(math.prod(value.shape)) * size


def _numpy(value: Any) -> np.ndarray:
    value = value.detach().cpu()
    value = (value if "strided" in str(value.layout) else value.to_dense()).resolve_conj()
    if str(value.dtype).removeprefix("torch.") in STORED_AS:
        value = value.float()
    return value.resolve_neg().numpy()


def _key(key: Any) -> Any:
    if key is None or type(key) in (bool, int, str) or (type(key) is float and key == key):
        return key
    raise CodecError(f"a dictionary with a key of type {type(key).__name__}")


def _unpack(text: Any, budget: int) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    if type(text) is not str or len(text) > budget * 4 // 3 + 1_000_000:
        raise CodecError("arrays that are too large")
    try:
        return load(base64.b64decode(text, validate=True)) if text else {}
    except (binascii.Error, ValueError) as error:
        raise CodecError(f"malformed arrays ({type(error).__name__})") from None
    except Exception as error:  # safetensors has its own exception class
        raise CodecError(f"malformed arrays ({error})") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
