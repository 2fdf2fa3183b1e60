"""Reading JSON annotations of unknown origin, with a check of every field."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.system.text_files import decoded

LARGEST_ID = 2**63 - 1
MOST_CATEGORIES = 255
MAX_PIXELS = 178_956_970
"""Pixels of an image above which Pillow refuses to read it."""


def read_json_file(path: str | Path) -> Any:
    """Read a JSON file in UTF-8, or in the encoding of its byte order mark.

    Raises:
        LabkitError: the file cannot be read, is not JSON, or an object in it repeats a key.
    """
    try:
        return json.loads(decoded(Path(path).read_bytes()), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise LabkitError(f"{path}: cannot read the JSON: {error.strerror}") from None
    except RecursionError:
        raise LabkitError(f"{path}: not a JSON file that can be read: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, _without_repeats
        raise LabkitError(f"{path}: not a JSON file: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # of two lists "annotations" the first would be lost silently
        times = Counter(key for key, _ in pairs)
        twice = next(key for key, number in times.items() if number > 1)
        raise ValueError(f'the key "{twice}" occurs twice in one object')
    return found


def _integer(value: Any) -> bool:
    # By type, not isinstance: True is an int for isinstance and no id.
    return (type(value) is int and abs(value) <= LARGEST_ID) or (
        type(value) is float and value.is_integer() and abs(value) <= 2**53
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15 and math.isfinite(value)


def is_name(value: Any) -> bool:
    """Whether a value can be a name: a non-empty string of characters that file names may have."""
    if type(value) is not str or not value or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _is_file_name(value: Any) -> bool:
    """Whether a value can name a file; a folder's name ends with a slash or with dots."""
    return is_name(value) and value.replace("\\", "/").rpartition("/")[2] not in ("", ".", "..")


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_integer, "an integer"),
    # Cityscapes names its images by strings.
    "image_id": (lambda v: _integer(v) or is_name(v), "an integer or a string"),
    "category_id": (_integer, "an integer"),
    "name": (is_name, "a string"),
    "file_name": (_is_file_name, "the name of a file"),
    "height": (lambda v: _integer(v) and v > 0, "an integer from 1 on"),
    "width": (lambda v: _integer(v) and v > 0, "an integer from 1 on"),
    "area": (_number, "a number"),
    "iscrowd": (lambda v: type(v) in (int, float, bool) and v in (0, 1), "0 or 1"),
    "isthing": (lambda v: type(v) in (int, float, bool) and v in (0, 1), "0 or 1"),
    "images": (lambda v: type(v) is list, "a list"),
    "categories": (lambda v: type(v) is list, "a list"),
    "annotations": (lambda v: type(v) is list, "a list"),
    "segments_info": (lambda v: type(v) is list, "a list"),
}


def require_fields(entry: dict[str, Any], keys: Iterable[str], where: str, kind: str = "") -> None:
    """Check fields of an entry; convert integers that are written as ``1.0``.

    Args:
        entry: an object of the JSON.
        keys: its fields, which must be there.
        where: file and entry, for the message.
        kind: key of ``_KINDS`` to check by, if it is not the field's name.

    Raises:
        LabkitError: a field is missing, or has a wrong value.
    """
    for key in keys:
        right, description = _KINDS[kind or key]
        value = entry.get(key)
        if not right(value):
            found = f"is {json_excerpt(value)}" if key in entry else "is missing"
            raise LabkitError(f'{where}: "{key}" {found}; it must be {description}')
        if type(value) is float and description != "a number":
            entry[key] = int(value)


def entries(owner: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Return the list ``owner[key]`` after checking that every entry is an object.

    Raises:
        LabkitError: it is missing or not a list, or an entry is not an object.
    """
    require_fields(owner, (key,), where)
    for i, entry in enumerate(owner[key]):
        if type(entry) is not dict:
            raise LabkitError(
                f"{where}, {key}[{i}]: is {json_excerpt(entry)}, it must be an object"
            )
    found: list[dict[str, Any]] = owner[key]
    return found


def unique(rows: list[dict[str, Any]], key: str, where: str, kind: str = "") -> set[Any]:
    """Collect the values of ``key`` and check that they differ.

    Raises:
        LabkitError: a value is missing, wrong or repeated.
    """
    seen: set[Any] = set()
    for i, row in enumerate(rows):
        require_fields(row, (key,), f"{where}[{i}]", kind)
        if row[key] in seen:
            raise LabkitError(
                f'{where}[{i}]: "{key}" {json_excerpt(row[key])} occurs twice; ids must differ'
            )
        seen.add(row[key])
    return seen


def check_image_entries(data: dict[str, Any], path: str | Path) -> set[Any]:
    """Check the list ``images`` and return its ids.

    Raises:
        LabkitError: a field is missing or wrong, or an image has too many pixels to be read.
    """
    ids = unique(entries(data, "images", str(path)), "id", f"{path}: images", "image_id")
    for i, image in enumerate(data["images"]):
        where = f"{path}: images[{i}]"
        require_fields(image, ("file_name", "height", "width"), where)
        if image["height"] * image["width"] > MAX_PIXELS:
            raise LabkitError(
                f'{where}: "height" {image["height"]} and "width" {image["width"]} are more than'
                f" the {MAX_PIXELS:,} pixels that can be read"
            )
    return ids


def check_category_entries(
    data: dict[str, Any], path: str | Path, fields: tuple[str, ...] = ("name",)
) -> set[int]:
    """Check the list ``categories`` and return its ids.

    Args:
        data: the JSON.
        path: its file, for messages.
        fields: required fields beside the id; ``isthing`` is checked where present.

    Raises:
        LabkitError: a field is missing or wrong, or there are too many.
    """
    ids = unique(entries(data, "categories", str(path)), "id", f"{path}: categories")
    for i, category in enumerate(data["categories"]):
        wanted = (*fields, "isthing") if "isthing" in category else fields
        require_fields(category, wanted, f"{path}: categories[{i}]")
    if len(ids) > MOST_CATEGORIES:
        raise LabkitError(
            f"{path}: {len(ids)} categories; at most {MOST_CATEGORIES} fit beside the value for"
            " pixels without a class"
        )
    return ids


def json_excerpt(value: Any) -> str:
    """Write a value as JSON, cut to a length that fits into a message."""
    if type(value) is str:
        return f'the text "{value:.60}"'
    try:  # not the whole of a long list is written only to be cut
        text = json.dumps(value[:20] if type(value) is list else value, default=str)
    except RecursionError:
        return "nested deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."


def id_type_hint(value: Any, known: Iterable[Any]) -> str:
    """Hint that an unknown id is known as the other type (text or number); else nothing."""
    if type(value) is str and any(str(other) == value for other in known if type(other) is int):
        return f"; it is text here and the number {value} there"
    if type(value) is int and str(value) in known:
        return f"; it is a number here and the text {json.dumps(str(value))} there"
    return ""
