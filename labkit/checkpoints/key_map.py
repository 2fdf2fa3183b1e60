"""Strict mapping of another project's parameter names to labkit's: all names fit, or none load."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit.errors import LabkitError

LINES = 18
"""Limit of the names that an error message lists, over all groups."""

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class RowOrder:
    """Conversion of a parameter whose rows (classes) have another order in the file.

    Attributes:
        extra: number of rows that the file has in addition to the model's.
        convert: converts the file's rows to the model's.
    """

    extra: int
    convert: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KeyMap:
    """Names and row orders of labkit's parameters in another project.

    Attributes:
        rules: (pattern of the beginning of a labkit name, replacement). The first matching rule is
            applied; a name without a matching rule is the same in both projects.
        dropped: pattern of names in files that are not weights.
        rows: row orders by labkit name.
    """

    rules: Sequence[Rule]
    dropped: str
    rows: Mapping[str, RowOrder] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """Name of a labkit parameter in the other project."""
        for pattern, replacement in self.rules:
            renamed, count = re.subn(rf"\A{pattern}", replacement, key)
            if count:
                return renamed
        return key

    def load(
        self,
        path: Path,
        weights: Mapping[str, Any],
        model: nn.Module,
        keys: Sequence[str] | None = None,
        hint: str = "",
    ) -> None:
        """Load the arrays of a file into a model, all or none.

        Args:
            path: the file, for messages.
            weights: the file's arrays or tensors by the file's names.
            model: a model with labkit's names.
            keys: the labkit names to load; None for all of the model's.
            hint: first sentence of the message about a file that does not fit.

        Raises:
            LabkitError: names are missing or unknown, or shapes or types differ. Then the model is
                unchanged.
        """
        state = model.state_dict()
        weights = {n: v for n, v in weights.items() if not re.fullmatch(self.dropped, n)}
        names = {key: self.name(key) for key in (state if keys is None else keys)}
        shapes = {key: self._shape(key, state[key]) for key in names}
        self._check(path, weights, {names[key]: shapes[key] for key in names}, hint)
        fitting = {}
        for key, name in names.items():
            value = torch.as_tensor(weights[name])
            fitting[key] = self.rows[key].convert(value) if key in self.rows else value
        model.load_state_dict(fitting, strict=keys is None)

    def _shape(self, key: str, value: Tensor) -> tuple[int, ...]:
        """Required shape of a parameter in the file."""
        rows, *rest = value.shape
        return (rows + (self.rows[key].extra if key in self.rows else 0), *rest)

    def _check(
        self,
        path: Path,
        weights: Mapping[str, Any],
        expected: Mapping[str, tuple[int, ...]],
        hint: str,
    ) -> None:
        missing = [name for name in expected if name not in weights]
        unknown = [name for name in weights if name not in expected]
        misshapen = [
            f"{name}: the file has {described}, the model needs {shape}"
            for name, shape in expected.items()
            if name in weights and (described := _describe(weights[name])) != str(shape)
        ]
        groups = {
            f"missing from the file ({len(missing)} of {len(expected)}):": missing,
            f"unknown to the model ({len(unknown)}):": unknown,
            f"of another shape or type ({len(misshapen)}):": misshapen,
        }
        groups = {title: names for title, names in groups.items() if names}
        if not groups:
            return
        lines = [f"{path}: these are not the weights of this model; nothing was loaded. {hint}"]
        for title, names in groups.items():
            lines.append(title)
            shown = LINES // len(groups)
            lines += [f"  {name}" for name in names[:shown]]
            if len(names) > shown:
                lines.append(f"  and {len(names) - shown} more")
        raise LabkitError("\n".join(line.rstrip() for line in lines))


def _describe(value: Any) -> str:
    """Describe a value for messages: its shape, or what it is instead of a float array."""
    if not isinstance(value, np.ndarray | Tensor):
        return f"no array ({type(value).__name__})"
    if isinstance(value, Tensor) and not _has_plain_values(value):
        return f"a tensor {tuple(value.shape)} that is sparse, quantized or without values"
    floating = value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"
    shape = str(tuple(value.shape))
    return shape if floating else f"{value.dtype} {shape}"


def _has_plain_values(value: Tensor) -> bool:
    plain = value.layout == torch.strided and not value.is_quantized
    return plain and not value.is_meta
