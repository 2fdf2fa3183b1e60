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


def names_of(path: Path) -> set[str]:
    """What a Python file defines or imports: functions, classes, their parts, variables."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in _attributes(node)}
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            yield part.name
        if isinstance(part, ast.AnnAssign | ast.Assign):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    yield target.attr


def exists(dotted: str) -> bool:
    """Whether a dotted name such as ``labkit.models.build`` is a module, or is in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in MODULES:
            rest = ".".join(parts[end:])
            return not rest or rest in names_of(MODULES[module])
    return False
