"""What a cell's code defines and uses, from its syntax alone: nothing is run."""

from __future__ import annotations

import ast
import functools
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

LONGEST = 100_000  # characters of a cell that is looked into
MOST = 2000  # statements of one
COMMAND = re.compile(r"^(\s*)([%!?].*|.*\?)$")
TIMING = re.compile(r"^%%(time|timeit|capture)\b.*$")


@dataclass(frozen=True)
class Unit:
    """Neighbouring statements on lines of their own: the smallest part that is taken or left.

    Attributes:
        source: the lines.
        binds: names that it gives a value at the notebook's top level, or changes there.
        uses: names that it needs from there, by what stands in its functions too.
        star: whether it imports everything that a module has.
        unwritten: names of functions whose whole body raises NotImplementedError.
    """

    source: str
    binds: frozenset[str]
    uses: frozenset[str]
    star: bool = False
    unwritten: frozenset[str] = field(default_factory=frozenset)


def parse(source: str) -> ast.Module | None:
    """Parse a cell's code, IPython's commands left out; None when it is not Python."""
    return _parse(plain(source))


@functools.lru_cache(maxsize=1000)
def plain(source: str) -> str:
    """Return code without IPython's commands, line for line."""
    if len(source) > LONGEST or _parse(source) is not None:
        return source
    lines = source.splitlines()
    if lines and lines[0].startswith("%%"):
        if not TIMING.match(lines[0]):
            return ""  # another language, or a file's content
        lines[0] = ""
    return "\n".join(COMMAND.sub(r"\1pass", line) for line in lines)


@functools.lru_cache(maxsize=1000)
def units(source: str) -> tuple[Unit, ...]:
    """Split a cell's code into its units; nothing when it is not Python, or endless."""
    source = plain(source)
    tree = _parse(source)
    if tree is None or len(tree.body) > MOST:
        return ()
    lines = source.splitlines()
    spans = list[tuple[int, int, list[ast.stmt]]]()
    for node in tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        last = node.end_lineno or node.lineno
        if spans and first <= spans[-1][1]:  # two statements on one line
            begin, end, nodes = spans.pop()
            nodes.append(node)
            spans.append((begin, max(end, last), nodes))
        else:
            spans.append((first, last, [node]))
    found = ("\n".join(lines[first - 1 : last]) for first, last, _ in spans)
    return tuple(_unit(text, nodes) for text, (_, _, nodes) in zip(found, spans, strict=True))


def same_code(one: str, other: str) -> bool:
    """Tell whether two cells hold the same code, comments and layout aside."""
    trees = [parse(one), parse(other)]
    if None in trees:
        return one.strip() == other.strip()
    try:
        return ast.dump(trees[0]) == ast.dump(trees[1])  # type: ignore[arg-type]
    except RecursionError:
        return False


def dotted_uses(sources: Iterable[str], before: Iterable[str] = ()) -> Iterator[str]:
    """Yield the dotted names of what code imports, or reaches through imports.

    Args:
        sources: the code of cells.
        before: the code of others, whose imports it may use.
    """
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
    """Yield the names that an import gives, each with what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.partition(".")[0]
            yield alias.asname or first, alias.name if alias.asname else first
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _parse(source: str) -> ast.Module | None:
    if len(source) > LONGEST:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _unit(source: str, nodes: list[ast.stmt]) -> Unit:
    try:
        table = symtable.symtable(source, "cell", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Unit(source, frozenset(), frozenset())
    symbols = table.get_symbols()
    binds = {symbol.get_name() for symbol in symbols if _is_bound(symbol)}
    uses = {symbol.get_name() for symbol in symbols if symbol.is_referenced()} - binds
    inner = table.get_children()
    while inner:
        scope = inner.pop()
        for symbol in scope.get_symbols():
            if symbol.is_global():
                (uses if not symbol.is_assigned() else binds).add(symbol.get_name())
        inner += scope.get_children()
    changed = {name for node in nodes for name in _changed(node)}
    star = any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in nodes)
    unwritten = {node.name for node in nodes if _is_unwritten(node)}  # type: ignore[attr-defined]
    return Unit(
        source, frozenset(binds | changed), frozenset(uses - binds), star, frozenset(unwritten)
    )


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported()


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yield names whose objects a statement changes: ``a[0] = 1``, ``a.b = 1``, ``a.append(1)``."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        targets = [node.value.func] if isinstance(node.value.func, ast.Attribute) else []
    for target in targets:
        while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
            target = target.value
            if isinstance(target, ast.Name):
                yield target.id


def _is_unwritten(node: ast.stmt) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    body = [
        inner
        for inner in node.body
        if not (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant))
    ]
    if len(body) != 1 or not isinstance(body[0], ast.Raise):
        return False
    raised = body[0].exc.func if isinstance(body[0].exc, ast.Call) else body[0].exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
