"""What a cell shows, taken from untrusted messages: little of it, plain, and checked."""

from __future__ import annotations

import base64
import binascii
from typing import Any

TEXT = "text/plain"
PICTURES = ("image/png", "image/jpeg")
LONGEST_NAME = 200


class Violation(Exception):
    """A message that no honest kernel sends."""


def output_from(kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the notebook's output for a message, or None for what is not kept.

    Text and pictures are kept. HTML, JavaScript, widgets and updates of earlier displays are not:
    nobody who grades needs what could act in the reader's browser.

    Raises:
        Violation: the content is not what the kind of message promises.
    """
    if kind == "stream":
        name = content.get("name")
        if name not in ("stdout", "stderr"):
            raise Violation("a stream of another name")
        return {"output_type": "stream", "name": name, "text": text(content.get("text"))}
    if kind in {"display_data", "execute_result"}:
        data = content.get("data")
        if type(data) is not dict:
            raise Violation("a display without data")
        kept = _kept(data)
        if not kept:
            return None
        output: dict[str, Any] = {"output_type": kind, "data": kept, "metadata": {}}
        if kind == "execute_result":
            output["execution_count"] = None
        return output
    if kind == "error":
        lines = content.get("traceback")
        if type(lines) is not list:
            raise Violation("an error without a traceback")
        return {
            "output_type": "error",
            "ename": name_of(content.get("ename")),
            "evalue": text(content.get("evalue")),
            "traceback": [text(line) for line in lines],
        }
    return None


def text(value: Any) -> str:
    """Return text that every file can hold.

    Raises:
        Violation: it is not text.
    """
    if type(value) is not str:
        raise Violation("something else where text belongs")
    return value.encode("utf-8", "replace").decode("utf-8")  # half characters are possible


def name_of(value: Any) -> str:
    """Return the name of an exception's class, shortened."""
    return text(value)[:LONGEST_NAME]


def _kept(data: dict[str, Any]) -> dict[str, str]:
    kept = {}
    if TEXT in data:
        kept[TEXT] = text(data[TEXT])
    for mime in PICTURES:
        if mime in data:
            picture = text(data[mime])
            try:
                base64.b64decode(picture.replace("\n", ""), validate=True)
            except (binascii.Error, ValueError):
                raise Violation("a picture that is none") from None
            kept[mime] = picture
    return kept
