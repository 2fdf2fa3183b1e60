"""The typed parameters of a notebook, read from its source without running it.

A notebook states them in the cell tagged ``parameters``::

    profile: str = "quick"
    steps: int = 300
    sizes: list[int] = [64, 128]
    fusion: Literal["heuristic", "parameter-free"] = "heuristic"

Without a type the default's own is the declaration; a default of None takes any value. The cell is
parsed, never executed, so a wrong value is refused before anything runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import add, floordiv, mul, pow, sub, truediv
from types import MappingProxyType
from typing import Any

from labkit.errors import LabkitError
from labkit.system.unknown_names import did_you_mean

Convert = Callable[[str], Any]
COMMAND = re.compile(r"^[%!].*$", re.MULTILINE)


SUPPORTED = (
    "str, int, float, bool, None, Any, list, tuple, dict, list[...], Literal[...], Optional[...] "
    "and unions of these"
)
NUMBERS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.Div: truediv,
    ast.FloorDiv: floordiv,
    ast.Pow: pow,
}
DEEPEST = 100
"""Levels of a cell's syntax tree; everything here goes through it recursively."""
LARGEST = 10**100  # a default that is computed is a number that somebody would write


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its annotation and its default as written.

    Attributes:
        convert: reads a value; None where values of this type cannot be read from a text.
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
    """Return what a parameters cell computes and declares no type for, each as it is written."""
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
        # IPython's own commands are no parameters.
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
    return [node for tree in trees for node in tree.body]


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [inner for node in level for inner in ast.iter_child_nodes(node)]
    return depth


def _parameters(statement: ast.stmt) -> Iterator[Parameter]:
    """Yield what a statement declares; nothing for one that computes without saying a type."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        annotation, value = statement.annotation, statement.value
        try:
            convert: Convert | None = _converter(annotation)
        except (NotImplementedError, ValueError, SyntaxError, RecursionError, MemoryError):
            convert = None
        default = "none" if value is None else ast.unparse(value)
        yield Parameter(statement.target.id, ast.unparse(annotation), default, convert)
    elif isinstance(statement, ast.Assign):
        try:
            value_now = _value(statement.value)
        except ValueError:
            return
        kind = "Any" if value_now is None else type(value_now).__name__
        for name in _bound(statement):
            default = ast.unparse(statement.value)
            yield Parameter(name, kind, default, _like(value_now))


def _bound(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _used(value: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}


def _value(node: ast.expr) -> Any:
    """Return the value of a default that is written out, numbers computed with numbers included.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in NUMBERS:
        most = 64 if isinstance(node.op, ast.Pow) else LARGEST
        left, right = _value(node.left), _value(node.right)
        if all(type(side) in (int, float) and abs(side) <= most for side in (left, right)):
            try:
                result = NUMBERS[type(node.op)](left, right)
            except ArithmeticError as error:
                raise ValueError(str(error)) from error
            if isinstance(result, int | float):
                return result
        raise ValueError(ast.unparse(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        if type(value) in (int, float):
            return -value if isinstance(node.op, ast.USub) else value
        raise ValueError(ast.unparse(node))
    if isinstance(node, ast.List | ast.Tuple):
        entries = [_value(entry) for entry in node.elts]
        return entries if isinstance(node, ast.List) else tuple(entries)
    try:
        value = ast.literal_eval(node)
    except TypeError as error:  # a list as a key
        raise ValueError(str(error)) from error
    if not isinstance(value, bool | int | float | str | dict | None):
        raise ValueError(ast.unparse(node))
    return value


def _like(value: Any) -> Convert:
    """Return the function that reads values of the same type as a default."""
    if value is None:
        return _read_any
    if isinstance(value, list):
        kinds = {type(entry) for entry in value}
        item = _like(value[0]) if len(kinds) == 1 else _read_any
        # Whole numbers stand for floats, and a default of [1, 2] hardly forbids 0.5.
        return _list_of(_read_number if kinds <= {int, float} and kinds else item)
    if isinstance(value, tuple | dict):
        return _literal_of(type(value))
    for kind, convert in ((bool, _read_bool), (int, int), (float, float)):
        if type(value) is kind:
            return convert
    return str


def _converter(annotation: ast.expr) -> Convert:
    """Return the function that reads an annotation's values; it raises ValueError on others."""
    match annotation:
        case ast.Constant(value=str(text)):  # a type in quotation marks
            return _converter(ast.parse(text, mode="eval").body)
        case ast.Constant(value=None):
            return _read_none
        case ast.BinOp(op=ast.BitOr()):
            return _first_of([_converter(member) for member in _members(annotation)])
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _plain_converter(name)
        case ast.Subscript(
            value=ast.Name(id=name) | ast.Attribute(attr=name), slice=ast.Tuple(elts=inner)
        ):
            return _generic_converter(name, inner)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=item):
            return _generic_converter(name, [item])
    raise NotImplementedError


def _plain_converter(name: str) -> Convert:
    known: dict[str, Convert] = {"str": str, "int": int, "float": float, "bool": _read_bool}
    known |= {"Any": _read_any, "object": _read_any, "None": _read_none}
    known |= dict.fromkeys(("list", "List", "Sequence"), _list_of(_read_any))
    known |= dict.fromkeys(("dict", "Dict", "Mapping"), _literal_of(dict))
    known |= dict.fromkeys(("tuple", "Tuple"), _literal_of(tuple))
    if name not in known:
        raise NotImplementedError
    return known[name]


def _generic_converter(name: str, inner: list[ast.expr]) -> Convert:
    match name:
        case "Optional":
            return _first_of([_converter(inner[0]), _read_none])
        case "Union":
            return _first_of([_converter(member) for member in inner])
        case "Annotated" | "Final":
            return _converter(inner[0])
        case "list" | "List" | "Sequence" | "Iterable":
            return _list_of(_converter(inner[0]))
        case "dict" | "Dict" | "Mapping":
            return _literal_of(dict)
        case "tuple" | "Tuple":
            return _literal_of(tuple)
        case "Literal":
            return _one_of(tuple(ast.literal_eval(choice) for choice in inner))
    raise NotImplementedError


def _read_bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


def _read_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _read_any(text: str) -> Any:
    """Read what is written as Python writes it; anything else is a text."""
    for plain, value in (("true", True), ("false", False), ("none", None)):
        if text.lower() == plain:
            return value
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def _read_none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


def _members(annotation: ast.expr) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _members(annotation.left) + _members(annotation.right)
    return [annotation]


def _first_of(converters: list[Convert]) -> Convert:
    # Every text is a str, so str may only be tried when nothing else fits.
    ordered = sorted(converters, key=lambda convert: convert is str)

    def read(text: str) -> Any:
        for convert in ordered:
            try:
                return convert(text)
            except ValueError:
                continue
        raise ValueError(text)

    return read


def _list_of(item: Convert) -> Convert:
    def read(text: str) -> list[Any]:
        inner = text.strip()
        if inner.startswith("[") != inner.endswith("]"):
            raise ValueError(text)
        if inner.startswith("["):
            inner = inner[1:-1]
        parts = [part.strip().strip("\"'") for part in inner.split(",")]
        if parts[-1] == "":  # none at all, or a comma at the end
            parts.pop()
        return [item(part) for part in parts]

    return read


def _literal_of(kind: type) -> Convert:
    def read(text: str) -> Any:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise ValueError(text) from None
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if type(value) is not kind:
            raise ValueError(text)
        return value

    return read


def _one_of(allowed: tuple[Any, ...]) -> Convert:
    def read(text: str) -> Any:
        for choice in allowed:
            if text == str(choice):
                return choice
        raise ValueError(text)

    return read
