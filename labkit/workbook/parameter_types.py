"""Converters from the text of ``-p NAME=VALUE`` to a value of a parameter's declared type.

A converter takes a text and returns the value, or raises ValueError.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from operator import add, floordiv, mul, pow, sub, truediv
from typing import Any

Convert = Callable[[str], Any]

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
LARGEST = 10**100
"""Limit of a computed default: a number that somebody would write."""


def literal_value(node: ast.expr) -> Any:
    """Evaluate a literal, or arithmetic on literal numbers.

    Raises:
        ValueError: it is another expression.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in NUMBERS:
        most = 64 if isinstance(node.op, ast.Pow) else LARGEST
        left, right = literal_value(node.left), literal_value(node.right)
        if all(type(side) in (int, float) and abs(side) <= most for side in (left, right)):
            try:
                result = NUMBERS[type(node.op)](left, right)
            except ArithmeticError as error:
                raise ValueError(str(error)) from error
            if isinstance(result, int | float):
                return result
        raise ValueError(ast.unparse(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal_value(node.operand)
        if type(value) in (int, float):
            return -value if isinstance(node.op, ast.USub) else value
        raise ValueError(ast.unparse(node))
    if isinstance(node, ast.List | ast.Tuple):
        entries = [literal_value(entry) for entry in node.elts]
        return entries if isinstance(node, ast.List) else tuple(entries)
    try:
        value = ast.literal_eval(node)
    except TypeError as error:  # a list as a key
        raise ValueError(str(error)) from error
    if not isinstance(value, bool | int | float | str | dict | None):
        raise ValueError(ast.unparse(node))
    return value


def converter_of_default(value: Any) -> Convert:
    """Return the converter to the type of a default value."""
    if value is None:
        return _read_any
    if isinstance(value, list):
        kinds = {type(entry) for entry in value}
        item = converter_of_default(value[0]) if len(kinds) == 1 else _read_any
        # Whole numbers stand for floats, and a default of [1, 2] hardly forbids 0.5.
        return _list_of(_read_number if kinds <= {int, float} and kinds else item)
    if isinstance(value, tuple | dict):
        return _literal_of(type(value))
    for kind, convert in ((bool, _read_bool), (int, int), (float, float)):
        if type(value) is kind:
            return convert
    return str


def converter_of_annotation(annotation: ast.expr) -> Convert:
    """Return the converter to the type that an annotation names.

    Raises:
        NotImplementedError: no converter for this type; the types are those of :data:`SUPPORTED`.
    """
    match annotation:
        case ast.Constant(value=str(text)):  # a type in quotation marks
            return converter_of_annotation(ast.parse(text, mode="eval").body)
        case ast.Constant(value=None):
            return _read_none
        case ast.BinOp(op=ast.BitOr()):
            return _first_of([converter_of_annotation(member) for member in _members(annotation)])
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
    if not inner and name not in ("tuple", "Tuple"):  # Optional[()]
        raise NotImplementedError
    match name:
        case "Optional":
            return _first_of([converter_of_annotation(inner[0]), _read_none])
        case "Union":
            return _first_of([converter_of_annotation(member) for member in inner])
        case "Annotated" | "Final":
            return converter_of_annotation(inner[0])
        case "list" | "List" | "Sequence" | "Iterable":
            return _list_of(converter_of_annotation(inner[0]))
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
    """Read a Python literal; any other text stays a text."""
    for plain, value in (("true", True), ("false", False), ("none", None)):
        if text.lower() == plain:
            return value
    try:
        return literal_value(ast.parse(text, mode="eval").body)
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
