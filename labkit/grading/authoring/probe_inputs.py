"""Seed and digest of the cases of a probe, different for every submission."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from labkit.errors import LabkitError
from labkit.grading.authoring.probes import Value


def case_generator(assignment_hash: str, content_hash: str, probe: str) -> np.random.Generator:
    """Return the random generator for the cases of a probe, different for every submission.

    The cases are generated with it for the sandbox, and again for scoring.
    """
    digest = hashlib.sha256(f"{assignment_hash}\n{content_hash}\n{probe}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def cases_digest(cases: Iterable[Mapping[str, Value]]) -> str:
    """Return a digest of cases, hidden entries included.

    It is stored with the answers (``"inputs"`` of a probe in harvest.json), and scoring refuses
    answers to other inputs than those generated now. The digest does not depend on tolerances,
    references and points, so that these can be corrected without running anything again.
    """
    digest = hashlib.sha256()
    _digest(list(cases), digest)
    return digest.hexdigest()


def _digest(value: Value, digest: Any) -> None:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16; its values are exact in float32.
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        digest.update(f"array {array.dtype.str} {np.shape(value)}\n".encode())
        digest.update(array.tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)}\n".encode())
        for name in sorted(value, key=repr):
            _digest(name, digest)
            _digest(value[name], digest)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for entry in value:
            _digest(entry, digest)
    elif value is None or isinstance(value, bool | int | float | str):
        text = repr(value)
        digest.update(f"{type(value).__name__} {len(text)} {text}\n".encode())
    else:
        raise LabkitError(
            f"inputs: a value of type {type(value).__name__} cannot be sent; send tensors, arrays, "
            "numbers, strings, None, and lists and dictionaries of these"
        )
