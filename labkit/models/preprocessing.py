"""How an image is prepared for a network: what the papers leave open and every checkpoint needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Conventions:
    """Choices that the papers leave open and that every published checkpoint depends on.

    The same architecture with the other column's choices loads the same weights and returns other
    numbers. What belongs to one part (anchors, RoIAlign, losses) is in that part's numbers.

    Attributes:
        bgr: the network sees blue first.
        mean, std: of red, green and blue, in units of 0 to 255.
        paste_resized: how masks get back into the image, see ``rcnn/paste_masks.py``.
        resize: what :class:`labkit.engine.predictor.Predictor` does to an image first: "whole",
            whole grey levels (Pillow); "floor", the same with the longer side rounded down;
            "float", interpolated as numbers (torchvision); "opencv", the same by OpenCV, which
            rounds sizes; None, nothing.
        short, long: the sides that it is resized to: the shorter one to ``short``, unless the other
            one would get longer than ``long``.
    """

    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paste_resized: bool
    resize: Literal["whole", "floor", "float", "opencv"] | None = None
    short: int = 800
    long: int = 1333

    def scale(self, size: tuple[int, int]) -> float:
        """How much an image of ``size`` (height, width) is enlarged under "opencv"."""
        scale = self.short / min(size)
        if round(scale * max(size)) > self.long:
            scale = self.long / max(size)
        return max(scale, 1 / min(size))  # a flat one keeps a row


DETECTRON2 = Conventions(True, IMAGENET_MEAN, (1.0, 1.0, 1.0), paste_resized=False, resize="whole")
TORCHVISION = Conventions(False, IMAGENET_MEAN, IMAGENET_STD, paste_resized=True, resize="float")
UPSNET = Conventions(
    True,
    (122.7717, 115.9465, 102.9801),
    (1.0, 1.0, 1.0),
    paste_resized=True,
    resize="opencv",
)
DETR = Conventions(False, IMAGENET_MEAN, IMAGENET_STD, paste_resized=False, resize="floor")
LABKIT = Conventions(False, IMAGENET_MEAN, IMAGENET_STD, paste_resized=False)
"""For networks trained here: nothing to be compatible with, so the simpler choice of each."""
