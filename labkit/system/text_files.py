"""Reading text and TOML files: those that users write, and those that come with labkit."""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError

MOST_DOTS = 200
"""In a line of TOML; what Python's parser needs grows with the square of a name's parts."""

_MARKS = (  # UTF-32's begin with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(content: bytes) -> str:
    """Decode a text file: UTF-8, or as its byte order mark says; the mark itself is left out.

    Raises:
        UnicodeDecodeError: the content is neither.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    return content.decode("utf-8-sig")


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of a TOML file that comes with labkit.

    Raises:
        LabkitError: the file is missing or is not valid TOML.
    """
    try:
        return parse_toml(path.read_bytes())
    except FileNotFoundError:
        raise LabkitError(f"{path}: not found; install labkit again") from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError are some
        raise LabkitError(f"{path} is not valid TOML: {error}") from None


def parse_toml(content: bytes) -> dict[str, Any]:
    """Parse the content of a TOML file into its tables.

    Raises:
        ValueError: it is not text, not TOML, or nested deeper than anybody writes by hand.
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
