"""Deferred imports of slow, rarely used modules until their first use.

Two libraries import such a module for a single function:

- torchvision takes ``torch._dynamo.utils`` for a question that its RoIAlign asks on a GPU, and with
  it comes everything that compiles: more than half of ``import torch, torchvision``.
- jsonschema takes ``rfc3987_syntax``, which builds a grammar, for identifiers that no notebook has.
  It is behind nbformat: more than half of what a notebook's worker imports.

A module that fetches the real one at the first use stands in for it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# A module, its function that is wanted, and the library that wants it.
DEFERRED = (
    ("torch._dynamo.utils", "is_compile_supported", "torchvision"),
    ("rfc3987_syntax", "is_valid_syntax", "jsonschema"),
)


class Deferred(ModuleType):
    """Replacement of a module: has one function, and imports the real one for anything else."""

    def __init__(self, name: str, function: str) -> None:
        super().__init__(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._real(), function)(*args, **kwargs)

        # As torch's own: torch.compile takes the answer for a constant.
        call._dynamo_marked_constant = True  # type: ignore[attr-defined]
        setattr(self, function, call)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks at
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


def defer() -> None:
    """Install the replacements of modules that are installed and not imported yet."""
    for module, function, user in DEFERRED:
        package = module.partition(".")[0]
        if module not in sys.modules and user not in sys.modules and find_spec(package):
            sys.modules[module] = Deferred(module, function)
