"""Preprocessing: images of any size to one normalised batch, as the weights expect it.

The papers leave these choices open, and every published checkpoint depends on them: the same
architecture with another column's choices loads the same weights and returns other numbers.
Notebook 07 compares them.

Letters in shapes: ``B`` images, ``h × w`` one image as the network sees it, ``H × W`` the padded
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.structures import IGNORE

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing configuration.

    Attributes:
        bgr: the network's channels are blue, green, red.
        mean, std: of red, green and blue, in units of 0 to 255.
        resize: how an image is resized for prediction. "pillow": in whole grey levels (Detectron2);
            "pillow_floor": the same, the longer side rounded down (DETR); "float": interpolated as
            numbers (torchvision); "opencv": the same by OpenCV, which rounds sizes (UPSNet);
            "pillow_square": in whole grey levels, the longer side to ``max_size``; padding makes
            the square (EoMT); None: not at all.
        min_size, max_size: the shorter side becomes ``min_size``, unless the longer one would
            exceed ``max_size``. "pillow_square" has no ``min_size``.
        size_divisor: batches are padded to a multiple of it, so that every stage divides evenly.
        pad_black: padding is black, and not of the mean colour.
    """

    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["pillow", "pillow_floor", "pillow_square", "float", "opencv"] | None = None
    min_size: int = 800
    max_size: int = 1333
    size_divisor: int = 32
    pad_black: bool = False

    def fits(self, other: Preprocessing) -> bool:
        """Whether weights for ``other`` can be used: only the sizes may differ."""
        same_sizes = replace(
            self,
            min_size=other.min_size,
            max_size=other.max_size,
            size_divisor=other.size_divisor,
        )
        return same_sizes == other

    def scale(self, size: Size) -> float:
        """How much "opencv" enlarges an image of this (height, width)."""
        scale = self.min_size / min(size)
        if round(scale * max(size)) > self.max_size:
            scale = self.max_size / max(size)
        return max(scale, 1 / min(size))  # a flat image keeps a row


DETECTRON2_PREPROCESSING = Preprocessing(True, IMAGENET_MEAN, (1.0, 1.0, 1.0), resize="pillow")
TORCHVISION_PREPROCESSING = Preprocessing(False, IMAGENET_MEAN, IMAGENET_STD, resize="float")
UPSNET_PREPROCESSING = Preprocessing(
    True, (122.7717, 115.9465, 102.9801), (1.0, 1.0, 1.0), resize="opencv"
)
DETR_PREPROCESSING = Preprocessing(
    False, IMAGENET_MEAN, IMAGENET_STD, resize="pillow_floor", size_divisor=1
)
MASK2FORMER_PREPROCESSING = Preprocessing(False, IMAGENET_MEAN, IMAGENET_STD, resize="pillow")
EOMT_PREPROCESSING = Preprocessing(
    False,
    IMAGENET_MEAN,
    IMAGENET_STD,
    resize="pillow_square",
    min_size=1,
    max_size=640,
    size_divisor=640,
    pad_black=True,
)
EFFICIENTNET_LITE_PREPROCESSING = Preprocessing(
    False, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), resize="pillow", min_size=320, max_size=640
)
LABKIT_PREPROCESSING = Preprocessing(False, IMAGENET_MEAN, IMAGENET_STD)
"""For networks trained from scratch: nothing to be compatible with, the simplest of each."""


@dataclass(frozen=True)
class Batch:
    """Images as a network takes them.

    Attributes:
        tensor: ``(B, 3, H, W)`` float32, normalised and padded at the bottom and right.
        input_sizes: (h, w) of each image in the tensor, without padding.
        image_sizes: (height, width) of each original image; predictions are in its pixels.
    """

    tensor: Tensor
    input_sizes: list[Size]
    image_sizes: list[Size]

    @property
    def padded_size(self) -> Size:
        """(H, W)."""
        return self.tensor.shape[2], self.tensor.shape[3]

    @property
    def padding(self) -> Tensor:
        """``(B, H, W)`` float32, 1 where a pixel is padding."""
        shape, device = (len(self.tensor), *self.padded_size), self.tensor.device
        padding = torch.ones(shape, device=device)
        for image_padding, (height, width) in zip(padding, self.input_sizes, strict=True):
            image_padding[:height, :width] = 0
        return padding


def preprocess(
    images: Sequence[Tensor], preprocessing: Preprocessing, training: bool = False
) -> Batch:
    """Resize, normalise, pad and stack images.

    Args:
        images: B tensors ``(3, ., .)`` uint8 RGB, sizes may differ.
        preprocessing: the weights' choices.
        training: images are not resized: their targets would have to be as well, so the data set's
            transforms do it.

    Raises:
        LabkitError: no image, or one that is not ``(3, height, width)`` uint8.
    """
    check_images(images)
    inputs = list(images) if training else [resize_image(image, preprocessing) for image in images]
    tensor = normalize_and_pad(inputs, preprocessing)
    if training:
        # All feature maps inherit this layout, and convolutions and RoIAlign are fastest in it. In
        # evaluation it is the Predictor's choice: sums in another order round differently.
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return Batch(tensor, [size_of(image) for image in inputs], [size_of(image) for image in images])


def check_images(images: Sequence[Tensor]) -> None:
    """Refuse what is not an image.

    Raises:
        LabkitError: no image, or one that is not ``(3, height, width)`` uint8.
    """
    if len(images) == 0:
        raise LabkitError("images: the list is empty; a model needs at least one image")
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise LabkitError(
                f"images[{i}] must be (3, H, W) uint8 RGB, got {tuple(image.shape)} {image.dtype}"
            )


def size_of(image: Tensor) -> Size:
    """(height, width) of ``(..., height, width)``."""
    return image.shape[-2], image.shape[-1]


def resize_image(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize an image ``(3, ., .)`` uint8 to the size that the weights expect, uint8 or float."""
    if preprocessing.resize is None:
        return image
    height, width = size_of(image)
    pixels = image.cpu()
    if preprocessing.resize == "opencv":
        scale = preprocessing.scale((height, width))
        array = pixels.permute(1, 2, 0).numpy().astype(np.float32)
        large = cv2.resize(array, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(large).permute(2, 0, 1).to(image.device)
    if preprocessing.resize == "float":
        scale = min(
            preprocessing.min_size / min(height, width), preprocessing.max_size / max(height, width)
        )
        resized = F.interpolate(
            pixels[None].float(),
            scale_factor=scale,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=True,
        )
        return resized[0].to(image.device)
    size = _pillow_size(width, height, preprocessing)
    if size == (width, height):
        return image
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    array = np.array(picture.resize(size, Image.Resampling.BILINEAR))
    return torch.from_numpy(array).permute(2, 0, 1).to(image.device)


def _pillow_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) after resizing by Pillow; a flat image keeps a row."""
    short, long = min(width, height), max(width, height)
    if preprocessing.resize == "pillow_square":
        scale = preprocessing.max_size / long
        return max(round(width * scale), 1), max(round(height * scale), 1)
    if preprocessing.resize == "pillow_floor":
        target = preprocessing.min_size
        if long / short * target > preprocessing.max_size:
            target = max(round(preprocessing.max_size * short / long), 1)
        return target * width // short, target * height // short
    sides = [side * preprocessing.min_size / short for side in (width, height)]
    if max(sides) > preprocessing.max_size:
        sides = [side * preprocessing.max_size / max(sides) for side in sides]
    return max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)


def normalize_and_pad(images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
    """Normalise, then pad at the bottom and right to a common size.

    Padding has the mean colour, so that a network sees no edge where the image ends; or it is
    black, where the published weights were trained so (``pad_black``).

    Args:
        images: B tensors ``(3, h, w)`` RGB from 0 to 255, uint8 or float.
        preprocessing: mean, standard deviation, channel order and divisor.

    Returns:
        ``(B, 3, H, W)`` float32.
    """
    divisor = preprocessing.size_divisor
    height = _round_up(max(image.shape[1] for image in images), divisor)
    width = _round_up(max(image.shape[2] for image in images), divisor)
    device = images[0].device
    mean = torch.tensor(preprocessing.mean, device=device)[:, None, None]
    std = torch.tensor(preprocessing.std, device=device)[:, None, None]
    batch = torch.zeros(len(images), 3, height, width, device=device)  # (B, 3, H, W)
    if preprocessing.pad_black:
        batch -= mean / std
    for padded, image in zip(batch, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = (image.float() - mean) / std
    return batch.flip(1) if preprocessing.bgr else batch


def padding_mask(batch: Batch, cells: Sequence[int]) -> Tensor:
    """Where a batch is padding, on the coarser grid of a feature map.

    Args:
        batch: B images.
        cells: (rows, columns) of the map; a cell is what the pixel at its beginning is.

    Returns:
        ``(B, rows, columns)`` bool, True for padding.
    """
    return F.interpolate(batch.padding[None], tuple(cells), mode="nearest")[0] > 0


def pad_semantic(maps: Sequence[Tensor], size: Size) -> Tensor:
    """Pad label maps ``(h, w)`` with IGNORE to ``(B, H, W)``, as :func:`preprocess` pads images.

    Args:
        maps: B tensors int64.
        size: (H, W).
    """
    height, width = size
    return torch.stack(
        [F.pad(m, (0, width - m.shape[1], 0, height - m.shape[0]), value=IGNORE) for m in maps]
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
