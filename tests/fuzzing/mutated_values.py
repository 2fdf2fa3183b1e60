"""Trees, texts and bytes to ones that are nearly as they should be.

Every function takes the random numbers first and returns something new; the same numbers and the
same input give the same output.
"""

from __future__ import annotations

import copy
import json
import math
import re
from random import Random
from typing import Any

# What json.dumps cannot write stands in the tree as a text and is put into its place afterwards.
RAW = {
    "@deep@": "[" * 100_000 + "]" * 100_000,
    "@deep enough@": "[" * 960 + "]" * 960,
    "@deeper@": "[" * 975 + "]" * 975,
    "@keys@": "{" + ",".join(f'"{n}": 0' for n in range(50_000)) + ', "49999": 0}',
    "@digits@": "7" * 5000,
    "@infinite@": "1e400",
    "@minus infinite@": "-1e400",
    "@half@": '"\\ud800"',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 3, 255, 256, 65536, 16777216, -1000, 0.5, 1.0, -0.0, 1e-320),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(1e15, 1e18, 1e308, -1e308, math.nan, math.inf, *RAW),
    *("", " ", "0", "1", "1.0", "null", "x" * 70_000, "\0", "a\nb", "é", "☃", "../../x", "/"),
    *("a\\" + "x" * 300, "a/" + "x" * 300 + ".png"),
    *(".", "..", "a/b", "a\\b", "~", "%s%n", "{}", "C:\\x", "#ff0000", "2026-01-01", "nan"),
    *([], {}, [[]], [[], []], [{}], {"": None}, {"a": {"b": []}}, [0] * 20_000, [None, 1, "a"]),
    *([1, 2], [1.5] * 6, [0, 0, 0], [-1, -1, 5, 5], [1e9] * 4, [math.nan] * 6, ["1"] * 4),
)


class _Again(str):
    """A key that differs from itself: an object can have it beside the one of the same letters."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) of a tree."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list) and len(node) < 1000:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    return found


def damaged_tree(random: Random, tree: Any) -> Any:
    """A JSON tree with one place changed: type, null, number, key, order, size."""
    box = [copy.deepcopy(tree)]
    places = _places(box)
    node, key = random.choice(places)
    value = node[key]
    kind = random.randrange(13)
    if kind <= 3 or (kind == 4 and type(value) in (bool, type(None))):
        node[key] = copy.deepcopy(random.choice(VALUES))
    elif kind == 4:
        node[key] = _near(random, value)
    elif kind == 5:
        del node[key]
    elif kind == 6 and isinstance(node, dict):
        node[_Again(key)] = copy.deepcopy(random.choice((value, random.choice(VALUES))))
    elif kind == 6:
        node.insert(random.randrange(len(node) + 1), copy.deepcopy(value))
    elif kind == 7 and isinstance(node, dict):
        node[random.choice(("", key.upper(), key + "s", "id", "\0", "__class__"))] = node.pop(key)
    elif kind in (7, 8):
        node[key] = [value] * random.choice((1, 2, 50))
    elif kind == 9:
        other, at = random.choice(places)
        node[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(value)
    elif kind == 10:
        other, at = random.choice(places)
        node[key] = copy.deepcopy(other[at])
    elif kind == 11 and isinstance(value, list):
        random.shuffle(value)
    elif kind == 11 and isinstance(value, dict):
        node[key] = list(value.values())
    elif isinstance(value, list) and value:
        node[key] = value[:-1] if random.random() < 0.5 else value * random.choice((2, 300))
    else:
        node[key] = str(value)
    return box[0] if box else None


def _near(random: Random, value: Any) -> Any:
    """A value beside another: a number a little or a thousand times off, a text with a slip."""
    if isinstance(value, bool | None):
        return not value
    if isinstance(value, int | float):
        return random.choice(
            (value + 1, value - 1, -value, value * 1000, value / 3, float(value), str(value))
            if abs(value) < 2**53
            else (str(value), value - 1)
        )
    if isinstance(value, str):
        text = value or "x"
        place = random.randrange(len(text))
        return random.choice(
            (
                text[:place],
                text[:place] + random.choice("0/\\:\0 é\ud800.~") + text[place + 1 :],
                text.upper(),
                text * 3,
                f" {text} ",
            )
        )
    return random.choice(VALUES)


def written(tree: Any) -> bytes:
    """A tree as the text of a JSON, with what is no JSON in it."""
    text = json.dumps(tree)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text.encode()


def damaged_json(random: Random, content: bytes) -> bytes:
    """A JSON file with one place changed, most often in its tree."""
    if random.random() < 0.15:
        return damaged_text(random, content)
    try:
        return written(damaged_tree(random, json.loads(content)))
    except (ValueError, RecursionError):  # damaged before
        return damaged_bytes(random, content)


TOKENS = (
    *("0", "1", "-1", "9999999999999999999999", "1e400", "nan", "inf", "-inf", "true", "none"),
    *("[]", "{}", "()", '""', "''", "=", "[[x]]", "[x]", "\n", "\t", "\0", "#", "\\", '"""', "'"),
    *("0001-01-01", "9999-12-31", "2026-02-30", "23:59:60", "9999-12-31T23:59:59-23:59"),
    *("0001-01-01T00:00:00+23:59", "2026-05-03T23:59:00Z", "12:00:00", "0x10", "0b1", "1_000"),
    *("lambda: 0", "a.b", "x[0]", "*", "**", "(yield)", "await x", "1/0", "2**64**64", ":=", "@"),
    *("1e308*10", "9**99", "-True", "not 1", "...", "f'{x}'", "b'x'", "{1, 2}", "{[]: 1}", "1j"),
    *(
        "Optional[()]",
        "Literal[x]",
        "list[list[int]]",
        "dict[str, int]",
        "'int",
        "Union[int, None]",
    ),
    *("-" * 100_000, "(" * 10_000, "[" * 100_000, "1+" * 50_000 + "1", "1" * 5000, "x" * 100_000),
    *("a" + ".a" * 20_000, "{a=" * 5000, "9999-12-31T23:59:59", "0001-01-01T00:00:00"),
    *("0x" + "f" * 5000, "0x" + "f" * 16),
    *("ｘ", "é", "☃", "\u2028", "\ufeff", "\r", "if x:", "  ", "%%bash", "!ls", "?"),
)


def damaged_text(random: Random, content: bytes) -> bytes:
    """A text with a token or a line changed, in another encoding, or with bytes changed."""
    kind = random.randrange(10)
    if kind == 0:
        return damaged_bytes(random, content)
    text = content.decode("utf-8", "replace")
    if kind == 1:
        encoding = random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-be", "cp037"))
        return text.encode(encoding, "replace")
    if kind == 2:  # a value in the place of a value
        values = list(re.finditer(r"(?<=[=:]) *[^=:\n]+", text))
        if values:
            value = random.choice(values)
            return (text[: value.start()] + random.choice(TOKENS) + text[value.end() :]).encode(
                "utf-8", "replace"
            )
    if kind <= 4:
        lines = text.splitlines(keepends=True) or [""]
        place, other = random.randrange(len(lines)), random.randrange(len(lines))
        change = random.randrange(4)
        if change == 0:
            lines.insert(other, lines[place])
        elif change == 1:
            del lines[place]
        elif change == 2:
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines[place] = lines[place].rstrip() + random.choice(TOKENS) + "\n"
        return "".join(lines).encode()
    tokens = re.findall(r"\w+|\s+|.", text) or [""]
    place = random.randrange(len(tokens))
    replacement = random.choice((*TOKENS, *(random.choice(tokens) for _ in range(20))))
    tokens[place : place + random.randrange(3)] = [replacement]
    return "".join(tokens).encode("utf-8", "replace")


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """Bytes cut off, flipped, doubled, left out, or filled with what numbers are wrong with."""
    data = bytearray(content)
    place = random.randrange(len(data) + 1)
    length = random.choice((1, 2, 4, 8, 64))
    kind = random.randrange(9)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[place:])
    if kind == 2 and data:
        for _ in range(random.choice((1, 1, 3, 30))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = data[place : place + length] * random.choice((1, 100))
    elif kind == 5:
        number = random.choice((0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
        coded = number.to_bytes(8, random.choice(("little", "big")))
        data[place : place + 4] = coded[:4] if random.random() < 0.5 else coded[4:]
    elif kind == 6:
        data[place : place + length] = random.randbytes(length)
    elif kind == 7:
        other = random.randrange(len(data) + 1)
        data[place : place + length] = data[other : other + length]
    else:
        data[place : place + length] = bytes([random.choice((0, 255, 10, 32))]) * length
    return bytes(data)
