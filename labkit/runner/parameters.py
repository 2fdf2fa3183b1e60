"""The typed parameters of a notebook, read from its source without running it.

A notebook states them in the cell tagged ``parameters``::

    profile: str = "quick"
    steps: int = 300
    sizes: list[int] = [64, 128]
    fusion: Literal["heuristic", "parameter-free"] = "heuristic"

The cell is parsed, never executed, so a wrong value is refused before anything runs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import LabkitError
from labkit.unknown_names import did_you_mean

Convert = Callable[[str], Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its annotation and its default as written."""

    name: str
    annotation: str
    default: str
    convert: Convert


def read_parameters(notebook: Any, where: str) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares, by name.

    Args:
        notebook: an nbformat notebook.
        where: the notebook's name, for messages.

    Raises:
        LabkitError: the parameters cell is not plain Python or uses a type not supported.
    """
    tagged = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if not tagged:
        return {}
    try:
        body = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise LabkitError(
            f"{where}: the cell tagged parameters is not plain Python "
            f"(line {error.lineno}: {error.msg})"
        ) from error
    found = {}
    for statement in body:
        parameter = _parameter(statement, where)
        if parameter is not None:
            found[parameter.name] = parameter
    return found


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


def coerce(values: dict[str, str], declared: dict[str, Parameter], where: str) -> dict[str, Any]:
    """Turn the texts of a command line into the values that the parameters declare.

    Raises:
        LabkitError: a name that the notebook does not declare, or a value not of its type;
            the message names the notebook, the parameter and what is allowed.
    """
    typed = {}
    for name, text in values.items():
        if name not in declared:
            hint = did_you_mean(name, declared)
            names = ", ".join(declared) or "it has none"
            raise LabkitError(
                f"{where} has no parameter {name!r}{': ' + hint if hint else '.'} "
                f"Its parameters: {names}. "
                "Name the notebooks that a parameter is meant for: labkit run NOTEBOOK -p ..."
            )
        parameter = declared[name]
        try:
            typed[name] = parameter.convert(text)
        except ValueError:
            raise LabkitError(
                f"{where}: parameter {name} = {text!r} is not allowed; "
                f"it is declared {parameter.annotation} (default {parameter.default})"
            ) from None
    return typed


def _parameter(statement: ast.stmt, where: str) -> Parameter | None:
    annotation: ast.expr
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        if statement.value is None:
            return None
        annotation, name, default = statement.annotation, statement.target.id, statement.value
    elif (
        isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
    ):
        name, default = statement.targets[0].id, statement.value
        # Without an annotation the default's own type is the declaration.
        value = default.value if isinstance(default, ast.Constant) else None
        if not isinstance(value, (bool, int, float, str)):
            return None
        annotation = ast.Name(type(value).__name__)
    else:
        return None
    try:
        convert = _converter(annotation)
    except (NotImplementedError, ValueError):
        raise LabkitError(
            f"{where}: parameter {name} is declared {ast.unparse(annotation)}; supported are str, "
            "int, float, bool, list[...], Literal[...] and unions of these with None"
        ) from None
    return Parameter(name, ast.unparse(annotation), ast.unparse(default), convert)


def _converter(annotation: ast.expr) -> Convert:
    """Return the function that reads an annotation's values; it raises ValueError on others."""
    match annotation:
        case ast.Name(id="str"):
            return str
        case ast.Name(id="int"):
            return int
        case ast.Name(id="float"):
            return float
        case ast.Name(id="bool"):
            return _read_bool
        case ast.Constant(value=None):
            return _read_none
        case ast.BinOp(op=ast.BitOr()):
            return _first_of([_converter(member) for member in _members(annotation)])
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return _list_of(_converter(item))
        case ast.Subscript(
            value=ast.Name(id="Literal") | ast.Attribute(attr="Literal"), slice=choices
        ):
            return _one_of(ast.literal_eval(choices))
    raise NotImplementedError


def _read_bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


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
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        parts = [part.strip().strip("\"'") for part in inner.split(",")]
        return [] if parts == [""] else [item(part) for part in parts]

    return read


def _one_of(choices: Any) -> Convert:
    allowed = choices if isinstance(choices, tuple) else (choices,)

    def read(text: str) -> Any:
        for choice in allowed:
            if text == str(choice):
                return choice
        raise ValueError(text)

    return read
