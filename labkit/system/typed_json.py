"""Parsed JSON as dataclasses, checked against their type annotations."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
LONGEST = 60  # characters of a wrong value or field that a message shows
TEXTS = {str: "text", Path: "a path", datetime: "a date and time in ISO format"}


def from_json(kind: type[T], value: Any) -> T:
    """Build a dataclass from the object that ``json.loads`` returned.

    Annotations can be dataclasses, enumerations, ``str``, ``int``, ``float``, ``bool``,
    ``datetime``, ``Path``, ``Any``, lists, tuples of one type, dictionaries and ``X | None``.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    found: T = _read(kind, value, "")
    return found


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if NoneType in arguments:
        inner = next(one for one in arguments if one is not NoneType)
        return None if value is None else _read(inner, value, place)
    if origin in (list, tuple):
        entries = _require(list, value, "a list", place)
        return origin(
            _read(arguments[0], entry, f"{place}[{n}]") for n, entry in enumerate(entries)
        )
    if origin is dict:
        pairs = _require(dict, value, "an object", place).items()
        return {name: _read(arguments[1], entry, f"{place}.{name}") for name, entry in pairs}
    if is_dataclass(kind):
        return _dataclass(kind, _require(dict, value, "an object", place), place)
    if issubclass(kind, Enum):
        known = [one.value for one in kind]
        if value not in known:
            raise _wrong(place, f"one of {', '.join(map(str, known))}", value)
        return kind(value)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise _wrong(place, "a number", value)
        return float(value)
    if kind in TEXTS:
        text = _require(str, value, TEXTS[kind], place)
        try:
            return datetime.fromisoformat(text) if kind is datetime else kind(text)
        except ValueError:
            raise _wrong(place, TEXTS[kind], value) from None
    names = {int: "a whole number", bool: "true or false"}
    return _require(kind, value, names[kind], place)


def _dataclass(kind: Any, value: Mapping[str, Any], place: str) -> Any:
    types = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    unknown = [name for name in value if name not in known]
    if unknown:
        raise ValueError(f"{place}.{unknown[0][:LONGEST]}".lstrip(".") + " is unknown")
    found = {}
    for name, field in known.items():
        inner = f"{place}.{name}".lstrip(".")
        if name in value:
            found[name] = _read(types[name], value[name], inner)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{inner} is missing")
    return kind(**found)


def _require(kind: type, value: Any, what: str, place: str) -> Any:
    if type(value) is not kind:
        raise _wrong(place, what, value)
    return value


def _wrong(place: str, what: str, value: Any) -> ValueError:
    return ValueError(
        f"{place or 'the content'} must be {what}, not {reprlib.repr(value)[:LONGEST]}"
    )
