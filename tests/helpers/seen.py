"""What a canvas of a page shows."""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np
from PIL import Image


def canvas_pixels(canvas: Any) -> np.ndarray:
    """The pixels of a canvas (locator), ``(H, W, 4)``.

    As a PNG: a list of numbers as long as that takes seconds on its way.
    """
    source = canvas.evaluate("(canvas) => canvas.toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return np.asarray(picture.convert("RGBA"))


def offline_state(piece: str) -> Any:
    """The state in a widget's piece of HTML (labkit/widgets/offline_page.py)."""
    packed = piece.partition('decoded("')[2].partition('")')[0]
    return json.loads(zlib.decompress(base64.b64decode(packed)))
