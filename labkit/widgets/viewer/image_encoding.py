"""Encoding of an image and its layers for the viewer's browser side."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from labkit.errors import LabkitError
from labkit.structures import VOID
from labkit.widgets.viewer.segment_layers import Layer, enlargement, name_places

MOST_SEGMENTS = 65535
"""Number of segments that 16-bit numbers can hold beside 0, nothing."""


def encode_image(pixels: np.ndarray) -> dict[str, Any]:
    """Encode an image ``(3, H, W)`` uint8 for the browser.

    Differences to the left neighbour, modulo 256, halve what zlib makes of a photograph; and no
    canvas has to decode it, which could change colours.
    """
    _, height, width = pixels.shape
    rows = pixels.transpose(1, 2, 0)  # (H, W, 3)
    differences = np.diff(rows, axis=1, prepend=np.uint8(0))
    return {
        "height": height,
        "width": width,
        "scale": enlargement(height, width),
        "data": zlib.compress(differences.tobytes(), 6),
    }


def encode_layer(layer: Layer) -> dict[str, Any]:
    """Encode a layer for the browser: 16-bit numbers, 0 = nothing, n = the n-th segment.

    Raises:
        LabkitError: there are more segments than numbers.
    """
    if len(layer.info) > MOST_SEGMENTS:
        raise LabkitError(
            f'layer "{layer.title}" has {len(layer.info):,} segments; the viewer tells at most'
            f" {MOST_SEGMENTS:,} apart: leave out the smallest"
        )
    head = {"title": layer.title, "message": layer.message, "summary": in_words(layer)}
    if layer.message is not None:
        return {**head, "data": b"", "segments": []}
    known = np.array([VOID, *layer.info], np.int32)
    order = np.argsort(known)
    numbers = order[np.searchsorted(known, layer.ids, sorter=order)].astype("<u2")
    places = name_places(layer)
    segments = [
        {
            "id": i,
            "text": info.text,
            "description": info.description,
            "color": list(info.color),
            "thing": info.isthing,
            "match": info.match,
            "place": places.get(i),
        }
        for i, info in layer.info.items()
    ]
    return {**head, "data": zlib.compress(numbers.tobytes(), 6), "segments": segments}


def in_words(layer: Layer) -> str:
    """Describe a panel for screen readers."""
    if layer.message is not None:
        return f"{layer.title}: {layer.message}"
    present = set(np.unique(layer.ids).tolist())
    said = [info.text for i, info in layer.info.items() if i in present]
    return f"{layer.title}: {'; '.join(said) or 'no segments'}"
