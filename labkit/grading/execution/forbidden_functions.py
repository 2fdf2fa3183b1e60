"""Forbidden functions: which of an assignment's submitted code uses; nothing is run.

In the kernel the same functions raise, see ``in_kernel.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from labkit.grading.execution.cell_analysis import parse


def forbidden_functions(
    sources: Iterable[str], before: Iterable[str], forbidden: Iterable[str]
) -> tuple[str, ...]:
    """Return the forbidden names that code imports, or uses through imported modules.

    Args:
        sources: the code of cells.
        before: the code of earlier cells, whose imports it may use.
        forbidden: dotted names of functions or modules.
    """
    used = set(_dotted_uses(sources, before))
    return tuple(
        name
        for name in forbidden
        if any(found == name or found.startswith(f"{name}.") for found in used)
    )


def _dotted_uses(sources: Iterable[str], before: Iterable[str]) -> Iterator[str]:
    """Yield the dotted names that code imports, or uses through imported modules."""
    trees = [tree for source in sources if (tree := parse(source)) is not None]
    known = dict[str, str]()
    for tree in (*filter(None, map(parse, before)), *trees):
        for node in ast.walk(tree):
            for name, dotted in _imported(node):
                known[name] = dotted
    for node in (node for tree in trees for node in ast.walk(tree)):
        for _, dotted in _imported(node):
            yield dotted
        parts, inner = list[str](), node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in known:
            yield ".".join([known[inner.id], *reversed(parts)])


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that an import binds, each with its dotted name."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.partition(".")[0]
            yield alias.asname or first, alias.name if alias.asname else first
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
