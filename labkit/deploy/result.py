"""What an exported model returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Size = tuple[int, int]
"""(height, width)."""

Run = Callable[..., dict[str, Array]]
"""Runs a graph: its name, then its inputs by name; outputs by name."""

VOID = 0
IGNORE = 255


class Sizes(NamedTuple):
    """Of an image, of the resized image, of the padded one that the network sees.

    ``scale`` has the pixels of the resized image per pixel of the image, along y and x.
    """

    image: Size
    input: Size
    padded: Size
    scale: tuple[float, float]


@dataclass
class Result:
    """Prediction for one image, in its pixels; parts that the model does not predict are None.

    Attributes:
        boxes: ``(N, 4)`` float32, XYXY.
        scores: ``(N,)`` float32, highest first.
        labels: ``(N,)`` int64, indices of ``model.json``'s categories.
        masks: ``(N, H, W)`` bool.
        semantic: ``(H, W)`` int64 labels, IGNORE where there is none.
        panoptic: ``(H, W)`` int32, the id of each pixel's segment, VOID where there is none.
        segments: of each id of ``panoptic``, its ``id``, ``label`` and, for things, ``score``.
    """

    boxes: Any = None
    scores: Any = None
    labels: Any = None
    masks: Any = None
    semantic: Any = None
    panoptic: Any = None
    segments: list[dict[str, Any]] = field(default_factory=list)

    def take(self, indices: Array) -> Result:
        """Some of the detections."""
        masks = None if self.masks is None else self.masks[indices]
        return Result(self.boxes[indices], self.scores[indices], self.labels[indices], masks)

    def add_segment(self, label: int, score: float | None = None) -> int:
        """Append a segment; return its id."""
        self.segments.append({"id": len(self.segments) + 1, "label": label})
        if score is not None:
            self.segments[-1]["score"] = score
        return len(self.segments)

    def labels_of_panoptic(self) -> Array:
        """``(H, W)`` the label of each pixel's segment, IGNORE where there is none."""
        labels = [segment["label"] for segment in self.segments]
        of_pixels: Array = np.array([IGNORE, *labels])[self.panoptic]
        return of_pixels
