"""The category file of a mask folder: the class of each value or colour of a mask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.datasets.json_fields import LARGEST_ID, is_name, json_excerpt
from labkit.datasets.masks.mask_files import Code
from labkit.errors import LabkitError
from labkit.structures import Categories, Category
from labkit.system.text_files import decoded, parse_toml

EXAMPLE = (
    '[{"name": "building", "isthing": true, "value": 1},'
    ' {"name": "road", "isthing": false, "value": 2}]'
)


@dataclass(frozen=True)
class MaskCategories:
    """Classes and their codes in masks.

    Attributes:
        categories: the classes; ids are 1, 2, 3, ... in the file's order unless it gives them.
        codes: code of each label: a grey or palette value, or a colour.
        colors: whether the codes are colours.
        void: codes that mean "no class".
        usual_void: whether ``void`` is the default, because the file lists none.
        path: the category file, for messages.
    """

    categories: Categories
    codes: list[Code]
    colors: bool
    void: frozenset[Code]
    usual_void: bool
    path: Path


def read_mask_categories(path: Path) -> MaskCategories:
    """Read a category file: ``{name, isthing, value or color, id}`` entries as JSON or TOML.

    In TOML the entries are ``[[category]]`` tables. ``id`` is optional. ``color`` is ``[r, g, b]``
    or ``"#rrggbb"``. ``void`` is an optional list of codes that mean "no class" (in JSON beside
    ``categories``); its default is 0 and 255, unless a category has them.

    Raises:
        LabkitError: the file cannot be read or is empty, or an entry lacks a field, repeats a name,
            an id or a code, or mixes values with colours.
    """
    content = _read(path)
    entries = content.get("categories", content.get("category", []))
    if not isinstance(entries, list) or not entries:
        raise LabkitError(f"{path}: lists no categories; it should be like {EXAMPLE}")
    categories: list[Category] = []
    codes: dict[Category, Code] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: category {number}"
        if not isinstance(entry, dict) or not is_name(entry.get("name")):
            raise LabkitError(f"{where} has no name; an entry is like {EXAMPLE[1:-1]}")
        where = f"{path}: category {entry['name']!r}"
        if not isinstance(entry.get("isthing"), bool):
            raise LabkitError(f"{where}: isthing must be true (objects) or false (stuff)")
        if ("value" in entry) == ("color" in entry):
            raise LabkitError(f"{where}: needs either value or color")
        identity = entry.get("id", number)
        if type(identity) is not int or not 1 <= identity <= LARGEST_ID:
            raise LabkitError(
                f"{where}: id {json_excerpt(identity)} must be a whole number from 1 on"
            )
        code = _code(entry.get("value", entry.get("color")), where)
        for other, known in codes.items():
            if other.name.lower() == entry["name"].lower():  # files of objects go by the name
                twice = "is listed twice" if other.name == entry["name"] else f"is {other.name!r}"
                raise LabkitError(f"{where} {twice}; names must differ, not in capitals alone")
            if known == code:
                raise LabkitError(f"{where} and {other.name!r} both have {code}")
            if isinstance(known, int) != isinstance(code, int):
                raise LabkitError(f"{where}: some categories have values, others colours")
        category = Category(identity, entry["name"], entry["isthing"])
        codes[category] = code
        categories.append(category)
    try:
        ordered = Categories(categories)
    except LabkitError as error:  # an id that repeats
        raise LabkitError(f"{path}: {error}") from None
    of_name = {category.name: code for category, code in codes.items()}
    used = [of_name[category.name] for category in ordered]
    colors = not isinstance(used[0], int)
    usual: set[Any] = {(0, 0, 0), (255, 255, 255)} if colors else {0, 255}
    named = content.get("void", [])
    if not isinstance(named, list):
        raise LabkitError(f"{path}: void must be a list of values or colours")
    void = {_code(code, f"{path}: void") for code in named}
    both = [ordered[used.index(code)].name for code in void if code in used]
    if both:
        raise LabkitError(f"{path}: the code of {both[0]!r} is in void, too; take it out of one")
    no_class = frozenset(void or usual - set(used))
    return MaskCategories(ordered, used, colors, no_class, not void, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        content = parse_toml(raw) if path.suffix == ".toml" else json.loads(decoded(raw) or "[]")
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # JSON's, TOML's and of the encoding
        raise LabkitError(f"{path}: neither JSON nor TOML ({error})") from None
    return content if isinstance(content, dict) else {"categories": content}


def _code(value: Any, where: str) -> Code:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
        return value
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            value = list(bytes.fromhex(value[1:]))
        except ValueError:
            value = None
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in value)
    ):
        return value[0], value[1], value[2]
    raise LabkitError(
        f"{where}: {json_excerpt(value)} is neither a value from 0 to 65535 nor a colour such as"
        ' [255, 0, 0] or "#ff0000"'
    )
