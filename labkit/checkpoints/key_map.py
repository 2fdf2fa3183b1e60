"""From another project's names to labkit's: every name accounted for, or nothing loaded."""

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
"""Names that a refusal lists, over all groups; one renamed layer should show, not fill a screen."""

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class RowOrder:
    """A parameter whose rows (classes) the file orders otherwise.

    Attributes:
        extra: rows that the file has beyond the model's.
        convert: from the file's rows to the model's.
    """

    extra: int
    convert: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KeyMap:
    """How another project names and orders the parameters of labkit's models.

    Attributes:
        rules: (pattern of the beginning of a labkit name, its replacement); the first that matches
            is applied, and a name that none matches is the same in both.
        dropped: pattern of names in files that carry no weights.
        rows: by labkit name.
    """

    rules: Sequence[Rule]
    dropped: str
    rows: Mapping[str, RowOrder] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """The other project's name of a labkit parameter."""
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
        """Put the arrays of a file into a model; all of them, or none.

        Args:
            path: for messages.
            weights: the file's arrays or tensors by the file's names.
            model: with labkit's names.
            keys: the labkit names to fill. None: all of the model's.
            hint: what to say first about a file that does not fit.

        Raises:
            LabkitError: names are missing or too many, or shapes or types differ. The model is
                as it was.
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
        """The shape that a parameter must have in the file."""
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
    """The shape, or what stands in the place of an array of floating-point numbers."""
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
