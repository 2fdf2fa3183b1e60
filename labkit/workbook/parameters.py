"""The typed parameters of a notebook, read from its source without running it.

A notebook declares them in the cell tagged ``parameters``::

    profile: str = "quick"
    steps: int = 300
    sizes: list[int] = [64, 128]
    fusion: Literal["heuristic", "parameter-free"] = "heuristic"

Without an annotation, a parameter has the type of its default; a default of None allows any value.
The cell is parsed, never executed, so a wrong value is refused before anything runs.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from labkit.errors import LabkitError
from labkit.system.unknown_names import did_you_mean
from labkit.workbook.parameter_types import (
    SUPPORTED,
    Convert,
    converter_of_annotation,
    converter_of_default,
    literal_value,
)

COMMAND = re.compile(r"^[%!].*$", re.MULTILINE)


DEEPEST = 100
"""Limit on the depth of a cell's syntax tree, which is traversed recursively."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its annotation and its default as written.

    Attributes:
        convert: reads a value; None if values of this type cannot be read from a text.
    """

    name: str
    annotation: str
    default: str
    convert: Convert | None


def read_parameters(notebook: Any, where: str) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares, by name.

    Args:
        notebook: an nbformat notebook.
        where: the notebook's name, for messages.

    Raises:
        LabkitError: the parameters cell is not plain Python or uses a type not supported.
    """
    found = {}
    for statement in _statements(notebook, where):
        for parameter in _parameters(statement):
            found[parameter.name] = parameter
    return found


def computed(notebook: Any, where: str) -> dict[str, str]:
    """Return the untyped computed names of the parameters cell, with their statements as text."""
    return {
        name: ast.unparse(statement)
        for statement in _statements(notebook, where)
        if isinstance(statement, ast.Assign) and not list(_parameters(statement))
        for name in _bound(statement)
    }


def dependent_lines(notebook: Any, changed: set[str]) -> list[str]:
    """Return the assignments of the parameters cell that use changed parameters, in their order.

    A value is injected after the cell: ``m = n + 1`` there would keep the old ``n``.
    """
    lines, changed = list[str](), set(changed)
    given = frozenset(changed)
    for statement in _statements(notebook, "the notebook"):
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        names = set(_bound(statement))
        if value is not None and names and not names & given and changed & _used(value):
            lines.append(ast.unparse(statement))
            changed |= names
    return lines


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """Split ``NAME=VALUE`` texts.

    Raises:
        LabkitError: a text has no ``=`` or no name, or a name comes twice.
    """
    values: dict[str, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise LabkitError(
                f"-p {text}: write a parameter as NAME=VALUE, for example -p steps=10"
            )
        if name == "profile":
            raise LabkitError(f"-p {text}: choose the profile with --profile {value}")
        if name in values:
            raise LabkitError(f"-p {name} is given twice")
        values[name] = value.strip()
    return values


def coerce(
    values: dict[str, str],
    declared: dict[str, Parameter],
    where: str,
    computed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Turn the texts of a command line into the values that the parameters declare.

    Args:
        computed: see :func:`computed`, for the message.

    Raises:
        LabkitError: a name that the notebook does not declare, or a value not of its type;
            the message names the notebook, the parameter and what is allowed.
    """
    typed = {}
    for name, text in values.items():
        if name in computed:
            raise LabkitError(
                f"{where}: {name} is computed ({computed[name]}), so that its type is not known; "
                f"declare it to make it a parameter: {name}: int = ..."
            )
        if name not in declared:
            hint = did_you_mean(name, declared)
            names = ", ".join(declared) or "it has none"
            raise LabkitError(
                f"{where} has no parameter {name!r}{': ' + hint if hint else '.'} "
                f"Its parameters: {names}. "
                "Name the notebooks that a parameter is meant for: labkit run NOTEBOOK -p ..."
            )
        parameter = declared[name]
        if parameter.convert is None:
            raise LabkitError(
                f"{where}: parameter {name} is declared {parameter.annotation}, which -p cannot "
                f"read; supported are {SUPPORTED}"
            )
        try:
            typed[name] = parameter.convert(text)
            repr(typed[name])  # what is written into the notebook
        except ValueError:
            raise LabkitError(
                f"{where}: parameter {name} = {text!r} is not allowed; "
                f"it is declared {parameter.annotation} (default {parameter.default})"
            ) from None
    return typed


def _statements(notebook: Any, where: str) -> list[ast.stmt]:
    tagged = [
        (number, cell)
        for number, cell in enumerate(notebook.cells, 1)
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) > 1:
        numbers = " and ".join(str(number) for number, _ in tagged)
        raise LabkitError(
            f"{where}: cells {numbers} are tagged parameters, and the later one would undo values "
            "given for the first; put them into one cell"
        )
    try:
        # IPython's own commands declare no parameters.
        trees = [ast.parse(COMMAND.sub("", cell.source)) for _, cell in tagged]
    except SyntaxError as error:
        raise LabkitError(
            f"{where}: the cell tagged parameters is not plain Python "
            f"(line {error.lineno}: {error.msg})"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # what the parser cannot go into
        raise LabkitError(
            f"{where}: the cell tagged parameters cannot be parsed: it is nested too deeply or "
            "holds what is no text"
        ) from error
    if any(_depth(tree) > DEEPEST for tree in trees):
        raise LabkitError(f"{where}: the cell tagged parameters is nested too deeply")
    try:
        for tree in trees:
            ast.unparse(tree)
    except ValueError as error:  # a hexadecimal one that Python reads and does not print
        raise LabkitError(
            f"{where}: the cell tagged parameters has a number of more than "
            f"{sys.get_int_max_str_digits()} digits; compute it in another cell"
        ) from error
    return [node for tree in trees for node in tree.body]


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [inner for node in level for inner in ast.iter_child_nodes(node)]
    return depth


def _parameters(statement: ast.stmt) -> Iterator[Parameter]:
    """Yield the parameters that a statement declares; none if it computes an untyped value."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        annotation, value = statement.annotation, statement.value
        try:
            convert: Convert | None = converter_of_annotation(annotation)
        except (NotImplementedError, ValueError, SyntaxError, RecursionError, MemoryError):
            convert = None
        default = "none" if value is None else ast.unparse(value)
        yield Parameter(statement.target.id, ast.unparse(annotation), default, convert)
    elif isinstance(statement, ast.Assign):
        try:
            value_now = literal_value(statement.value)
        except ValueError:
            return
        kind = "Any" if value_now is None else type(value_now).__name__
        for name in _bound(statement):
            default = ast.unparse(statement.value)
            yield Parameter(name, kind, default, converter_of_default(value_now))


def _bound(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _used(value: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
