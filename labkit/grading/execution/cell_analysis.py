"""Names that the code of a cell defines and uses, from its syntax; nothing is run."""

from __future__ import annotations

import ast
import functools
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_CODE = 100_000  # characters of a cell that is analysed
MAX_SHOWN = 80  # characters of a line that are shown
MAX_STATEMENTS = 2000  # statements of one
MAX_STEPS = 300  # parts of a cell that are executed one by one
MAX_BROKEN_CODE = 20_000  # characters of a cell with a syntax error that is analysed
MAX_BLOCKS, MAX_JOINED = 100, 4  # blocks of such a cell, and blocks that one part may consist of
SHELL = re.compile(r"!|\?|%(pip|conda)\b|.*\?\s*$")
LINE_END = re.compile(r"\r\n?|\n")  # as Python counts lines, unlike str.splitlines
CONTINUES = re.compile(r"[)\]}]|(else|elif|except|finally)\b")
COMMAND = re.compile(r"^(\s*)([%!?].*|.*\?)$")
TIMING = re.compile(r"^%%(time|timeit|capture)\b.*$")


@dataclass(frozen=True)
class Unit:
    """Statements that share lines: the smallest part of a cell that can be extracted.

    Attributes:
        source: the lines.
        binds: global names that it assigns or whose objects it changes.
        uses: global names that it reads, also in the bodies of its functions.
        star: whether it has an ``import *``.
        unwritten: names of functions that only raise NotImplementedError.
        line: its first line in the cell, from 1.
    """

    source: str
    binds: frozenset[str]
    uses: frozenset[str]
    star: bool = False
    unwritten: frozenset[str] = field(default_factory=frozenset)
    line: int = 1


@dataclass(frozen=True)
class SyntaxProblem:
    """A syntax error: the line, from 1, its text, and Python's message."""

    line: int
    text: str
    message: str


def parse(source: str) -> ast.Module | None:
    """Parse the code of a cell without IPython commands; None if it is not Python."""
    return _parse(without_commands(source))


@functools.lru_cache(maxsize=1000)
def without_commands(source: str) -> str:
    """Return code with IPython commands replaced, so that line numbers stay the same."""
    if len(source) > MAX_CODE or _parse(source) is not None:
        return source
    lines = LINE_END.split(source)
    if lines[0].startswith("%%"):
        if not TIMING.match(lines[0]):
            return ""  # another language, or a file's content
        lines[0] = ""
    return "\n".join(COMMAND.sub(r"\1pass", line) for line in lines)


@functools.lru_cache(maxsize=1000)
def units(source: str) -> tuple[Unit, ...]:
    """Split the code of a cell into units.

    If a cell is not Python as a whole, its parts that are Python are split. A cell that is too long
    has no units.
    """
    source = without_commands(source)
    tree = _parse(source)
    if tree is None:
        return tuple(_of_broken(source))
    return tuple(_of_tree(tree, LINE_END.split(source)))


def split_steps(source: str) -> list[tuple[int, str]]:
    """Split the code of a cell into parts to be executed one by one, each with its first line.

    Shell commands are removed: no answer needs them, and `!pip install` would wait for the missing
    network. A cell that cannot be split is one step.
    """
    found, lines = units(source), LINE_END.split(source)
    if not found or len(found) > MAX_STEPS:
        return [(1, source)]
    parts = [
        (unit.line, "\n".join(lines[unit.line - 1 :][: len(LINE_END.split(unit.source))]))
        for unit in found
    ]
    return [part for part in parts if not SHELL.match(part[1])] or [(1, source)]


def syntax_problem(source: str) -> SyntaxProblem | None:
    """Return the first syntax error of a cell."""
    source = without_commands(source)
    if len(source) > MAX_CODE:
        return None
    try:
        ast.parse(source)
    except SyntaxError as error:
        line = error.lineno or 1
        lines = LINE_END.split(source)
        text = lines[line - 1] if line <= len(lines) else ""
        return SyntaxProblem(line, text.strip()[:MAX_SHOWN], str(error.msg)[:MAX_SHOWN])
    except (ValueError, RecursionError, MemoryError) as error:
        return SyntaxProblem(1, "", type(error).__name__)
    return None


def same_code(one: str, other: str) -> bool:
    """Tell whether two cells have the same code apart from comments and layout."""
    trees = [parse(one), parse(other)]
    if None in trees:
        return one.strip() == other.strip()
    try:
        return ast.dump(trees[0]) == ast.dump(trees[1])  # type: ignore[arg-type]
    except RecursionError:
        return False


def _parse(source: str) -> ast.Module | None:
    if len(source) > MAX_CODE:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _of_tree(tree: ast.Module, lines: list[str], before: int = 0) -> Iterator[Unit]:
    """Yield the units of a tree; its code begins `before` lines after the start of the cell."""
    if len(tree.body) > MAX_STATEMENTS:
        return
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
    for first, last, nodes in spans:
        yield _unit("\n".join(lines[first - 1 : last]), nodes, before + first)


def _of_broken(source: str) -> Iterator[Unit]:
    """Yield the units of those parts of a cell that are Python by themselves.

    A part begins at a line without indentation; with strings and brackets it can continue.
    """
    if len(source) > MAX_BROKEN_CODE:
        return
    lines = LINE_END.split(source)
    starts = [n for n, line in enumerate(lines) if line[:1].strip() and not CONTINUES.match(line)]
    if len(starts) > MAX_BLOCKS:
        return
    ends = [*starts[1:], len(lines)]
    number = 0
    while number < len(starts):
        for last in range(number, min(number + MAX_JOINED, len(starts))):
            part = lines[starts[number] : ends[last]]
            tree = _parse("\n".join(part))
            if tree is not None:
                yield from _of_tree(tree, part, starts[number])
                number = last
                break
        number += 1


def _unit(source: str, nodes: list[ast.stmt], line: int) -> Unit:
    try:
        table = symtable.symtable(source, "cell", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Unit(source, frozenset(), frozenset(), line=line)
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
        source,
        frozenset(binds | changed),
        frozenset(uses - binds),
        star,
        frozenset(unwritten),
        line,
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
