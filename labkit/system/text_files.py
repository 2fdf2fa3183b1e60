"""Text files as people and their programs write them: a byte order mark or none, TOML."""

from __future__ import annotations

import codecs
import tomllib
from typing import Any

MOST_DOTS = 200
"""In a line of TOML; what Python's parser needs grows with the square of a name's parts."""

_MARKS = (  # UTF-32's begin with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or what its byte order mark says; the mark itself is left out.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    return content.decode("utf-8-sig")


def parse_toml(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ValueError: it is no text, no TOML, or nested deeper than anybody writes by hand.
    """
    text = decoded(content)
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MOST_DOTS and not line.lstrip().startswith("#"):
            raise ValueError(f"line {number} has {line.count('.')} dots")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OverflowError as error:  # of a time's offset
        raise ValueError(str(error)) from None
    waiting: list[Any] = [tables]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("an integer of more than 64 bits")  # longer ones cannot be shown
    return tables
