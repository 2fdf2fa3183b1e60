"""From a list of uint8 images to the one normalised tensor that a network takes.

Letters in shapes: ``B`` images, ``h × w`` one image, ``H × W`` the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.structures import IGNORE

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def batch_images(
    images: Sequence[Tensor],
    divisor: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Normalise, then pad at the bottom and right to a common size.

    Padding comes after the normalisation so that the border is the mean colour, not black: a
    network should not see an edge where the picture ends.

    Args:
        images: B tensors ``(3, h, w)`` uint8 RGB, sizes may differ.
        divisor: H and W are rounded up to a multiple of it (the network's largest stride).
        mean, std: per channel, in the units of the image (0 to 255).

    Returns:
        ``(B, 3, H, W)`` float32.

    Raises:
        LabkitError: no image, or one that is not ``(3, h, w)`` uint8.
    """
    check_images(images)
    return normalised(images, divisor, mean, std)


def check_images(images: Sequence[Tensor]) -> None:
    """Refuse what is not an image.

    Raises:
        LabkitError: no image, or one that is not ``(3, h, w)`` uint8.
    """
    if len(images) == 0:
        raise LabkitError("images: the list is empty; a model needs at least one image")
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise LabkitError(
                f"images[{i}] must be (3, H, W) uint8 RGB, got {tuple(image.shape)} {image.dtype}"
            )


def normalised(
    images: Sequence[Tensor], divisor: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """:func:`batch_images` of images that are known to be good, and may be float (0 to 255)."""
    height = _round_up(max(image.shape[1] for image in images), divisor)
    width = _round_up(max(image.shape[2] for image in images), divisor)
    device = images[0].device
    shift = torch.tensor(mean, device=device)[:, None, None]
    scale = torch.tensor(std, device=device)[:, None, None]
    batch = torch.zeros(len(images), 3, height, width, device=device)  # (B, 3, H, W)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = (image.float() - shift) / scale
    return batch


def padding_of(images: Sequence[Tensor], padded: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Where a batch has no picture, on the coarser grid of a feature map.

    Args:
        images: B tensors ``(3, h, w)``.
        padded: (H, W) of the batch.
        cells: (rows, columns) of the map; a cell is what the pixel at its beginning is.

    Returns:
        ``(B, rows, columns)`` bool, True for padding.
    """
    mask = torch.ones(len(images), *padded, device=images[0].device)  # (B, H, W)
    for row, image in zip(mask, images, strict=True):
        row[: image.shape[1], : image.shape[2]] = 0
    return F.interpolate(mask[None], tuple(cells), mode="nearest")[0] > 0


def batch_semantic(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Pad label maps ``(h, w)`` with IGNORE to ``(B, H, W)``, as :func:`batch_images` pads images.

    Args:
        maps: B tensors int64.
        size: (H, W) of the batch.
    """
    height, width = size
    return torch.stack(
        [F.pad(m, (0, width - m.shape[1], 0, height - m.shape[0]), value=IGNORE) for m in maps]
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
