"""labkit's modules and their imports, read from the source: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from helpers.paths import CHECKOUT

MODULES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((CHECKOUT / "labkit").rglob("*.py"))
}
"""Every module of labkit by its dotted name."""


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(), str(path))


def imports(module: str, *, types: bool) -> set[str]:
    """The modules of labkit that a module imports, also inside of functions.

    Args:
        module: dotted name.
        types: also what is imported under ``if TYPE_CHECKING``, which does not run.
    """
    return set(_imports(tree(MODULES[module]), types))


def _imports(node: ast.AST, types: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not types:
            for other in child.orelse:
                yield from _imports(other, types)
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if _is_labkit(alias.name))
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            if _is_labkit(child.module):
                for alias in child.names:
                    submodule = f"{child.module}.{alias.name}"
                    yield submodule if submodule in MODULES else child.module
        yield from _imports(child, types)


def _is_labkit(module: str) -> bool:
    return module.partition(".")[0] == "labkit"
