from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from labkit.system.typed_json import from_json


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    colour: Colour
    size: float = 1.0


@dataclass(frozen=True)
class Whole:
    name: str
    count: int
    parts: tuple[Part, ...]
    by_name: dict[str, Part | None] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    path: Path | None = None
    moment: datetime | None = None
    anything: Any = None
    on: bool = False


WHOLE = Whole(
    "a",
    3,
    (Part(Colour.RED), Part(Colour.BLUE, 2.5)),
    {"x": Part(Colour.RED), "y": None},
    ["n"],
    Path("/tmp"),
    datetime(2026, 5, 3, 12),
    [{"deep": [1, None]}],
    True,
)


def test_what_was_written_is_read_again():
    assert from_json(Whole, json.loads(json.dumps(asdict(WHOLE), default=str))) == WHOLE
    assert from_json(Whole, {"name": "", "count": 0, "parts": []}) == Whole("", 0, ())
    size = from_json(Part, {"colour": "red", "size": 2}).size
    assert (size, type(size)) == (2.0, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name must be text, not 3"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"count": 1.0}, r"count must be a whole number, not 1\.0"),
        ({"count": None}, "count must be a whole number, not None"),
        ({"parts": {}}, r"parts must be a list, not \{\}"),
        ({"parts": [{"colour": "red"}, {}]}, r"parts\[1\]\.colour is missing"),
        ({"parts": [{"colour": "green"}]}, r"parts\[0\]\.colour must be one of red, blue"),
        ({"parts": [{"colour": ["red"]}]}, r"parts\[0\]\.colour must be one of red, blue"),
        ({"parts": [{"colour": "red", "hue": 1}]}, r"parts\[0\]\.hue is unknown"),
        ({"by_name": {"x": {"colour": "red", "size": "1"}}}, r"by_name\.x\.size must be a number"),
        ({"by_name": {"x": {"colour": "red", "size": float("inf")}}}, "size must be a number"),
        ({"names": ["a", None]}, r"names\[1\] must be text, not None"),
        ({"path": 1}, "path must be a path, not 1"),
        ({"moment": "noon"}, "moment must be a date and time in ISO format, not 'noon'"),
        ({"on": 1}, "on must be true or false, not 1"),
        ({"x" * 900: 1}, "^x{60} is unknown"),
        ({"name": [[["x" * 900] * 900] * 9] * 9}, r"name must be text, not .{60}$"),
    ],
)
def test_anything_else_is_refused_with_its_place(change, message):
    content = json.loads(json.dumps(asdict(WHOLE), default=str))
    with pytest.raises(ValueError, match=message):
        from_json(Whole, content | change)


def test_the_content_itself_must_be_an_object():
    with pytest.raises(ValueError, match="the content must be an object, not"):
        from_json(Whole, [])
