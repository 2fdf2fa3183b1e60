"""Outputs of cells from untrusted messages: checked, and reduced to text and images."""

from __future__ import annotations

import base64
import binascii
from typing import Any

TEXT = "text/plain"
PICTURES = ("image/png", "image/jpeg")
MAX_NAME = 200


class ProtocolError(Exception):
    """A message that an unmodified kernel does not send."""


def output_from(kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the output for a message, or None if it is dropped.

    Text and images are kept. HTML, JavaScript, widgets and updates of earlier displays are dropped,
    because they could run code in the browser of the instructor.

    Raises:
        ProtocolError: the content is not what the kind of message promises.
    """
    if kind == "stream":
        name = content.get("name")
        if name not in ("stdout", "stderr"):
            raise ProtocolError("a stream with an unknown name")
        return {"output_type": "stream", "name": name, "text": checked_text(content.get("text"))}
    if kind in {"display_data", "execute_result"}:
        data = content.get("data")
        if type(data) is not dict:
            raise ProtocolError("a display without data")
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
            raise ProtocolError("an error without a traceback")
        return {
            "output_type": "error",
            "ename": class_name(content.get("ename")),
            "evalue": checked_text(content.get("evalue")),
            "traceback": [checked_text(line) for line in lines],
        }
    return None


def checked_text(value: Any) -> str:
    """Return text that can be written to a file.

    Raises:
        ProtocolError: the value is not text.
    """
    if type(value) is not str:
        raise ProtocolError("a value that must be text")
    return value.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is possible


def class_name(value: Any) -> str:
    """Return the name of an exception class, shortened."""
    return checked_text(value)[:MAX_NAME]


def _kept(data: dict[str, Any]) -> dict[str, str]:
    kept = {}
    if TEXT in data:
        kept[TEXT] = checked_text(data[TEXT])
    for mime in PICTURES:
        if mime in data:
            picture = checked_text(data[mime])
            try:
                base64.b64decode(picture.replace("\n", ""), validate=True)
            except (binascii.Error, ValueError):
                raise ProtocolError("an image that is not base64") from None
            kept[mime] = picture
    return kept
