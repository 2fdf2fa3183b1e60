"""Reading image files into tensors, with errors that name the file.

Images are turned upright as their EXIF orientation says, everywhere: people annotate what a viewer
shows, and Detectron2 turns images too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from labkit.datasets.file_names import missing_file_hint
from labkit.errors import LabkitError

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**63
"""Limit of an image, Pillow's own, about 89 million: each object's mask has as many values."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here instead

ORIENTATION = 0x0112
"""EXIF tag: 1 is as stored, 2 to 4 mirrored or upside down, 5 to 8 with sides exchanged."""


@contextmanager
def open_image(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """Open an image as it is stored; turn every error about the file into one clear message.

    Args:
        path: the file, of any format that Pillow reads.
        what: what the message calls it.

    Raises:
        LabkitError: the file is missing, truncated, not an image, or has more than
            :data:`MOST_PIXELS`.
    """
    try:
        with Image.open(path) as picture:
            if (pixels := picture.width * picture.height) > MOST_PIXELS:
                raise LabkitError(_too_large(path, f"{pixels / 1e6:.0f} million pixels"))
            yield picture
    except LabkitError:
        raise
    except FileNotFoundError:
        raise LabkitError(f"{path}: {what} not found{missing_file_hint(path)}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from None
    except Image.DecompressionBombError as error:
        pixels_found = re.search(r"\d+", str(error))
        size = f"{int(pixels_found[0]) / 1e6:.0f} million pixels" if pixels_found else str(error)
        raise LabkitError(_too_large(path, size)) from None
    except UnidentifiedImageError:
        raise LabkitError(f"{path}: not an image file that can be read") from None
    except MemoryError:
        raise LabkitError(_too_large(path, "it does not fit into memory")) from None
    except Exception as error:  # of damaged files Pillow raises whatever its decoder runs into
        raise LabkitError(f"{path}: the {what} is damaged ({error}); fetch it again") from None


def _too_large(path: Path, found: str) -> str:
    return (
        f"{path}: too large: {found}; at most {MOST_PIXELS // 10**6} million can be read. Make the"
        " image smaller first; the networks see at most 1,333 pixels a side"
    )


def orientation(picture: Image.Image) -> int:
    """EXIF orientation of an image; 1 if it has no valid one."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged entry turns nothing, as in viewers
        return 1
    return found if found in range(2, 9) else 1


def upright(picture: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    return picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """Read the upright (H, W) of an image and its EXIF orientation, without decoding it.

    Raises:
        LabkitError: as :func:`open_image`.
    """
    with open_image(path) as picture:
        return upright_size(picture), orientation(picture)


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file: ``(3, H, W)`` uint8 RGB, upright.

    Grey and palette images get three channels, 16-bit images keep their upper byte, transparency
    is dropped.

    Args:
        path: the file, of any format that Pillow reads.
        size: the required (H, W).

    Raises:
        LabkitError: as :func:`open_image`; or the pixels are fractional numbers, or the size is
            not ``size``.
    """
    with open_image(path) as stored:
        turn = orientation(stored)
        if size is not None:
            require_size(path, upright_size(stored), turn, size)
        image = upright(stored)
        if image.mode == "F":  # Pillow would cut it to whole numbers, 0 to 1 to black
            raise LabkitError(
                f"{path}: the pixels are fractional numbers, whose range is not known; save it"
                " as an image of 8 bits"
            )
        if image.mode.startswith("I"):  # Pillow would cut 16-bit grey off at 255
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            rgb = np.stack([grey] * 3, axis=2)
        else:
            rgb = np.array(image.convert("RGB"))  # a copy: a tensor needs writable memory
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(H, W) of an image after turning it upright."""
    width, height = picture.size
    return (width, height) if orientation(picture) >= 5 else (height, width)


def require_size(path: Path, found: tuple[int, int], turn: int, wanted: tuple[int, int]) -> None:
    """Refuse an image whose upright size differs from its annotation's.

    Raises:
        LabkitError: the sizes differ; where the EXIF orientation explains it, the message says so.
    """
    if found == tuple(wanted):
        return
    message = (
        f"{path}: the image is {found[0]} x {found[1]}, its annotation says {wanted[0]} x"
        f" {wanted[1]} pixels (height x width)"
    )
    if found == (wanted[1], wanted[0]):
        message += (
            f". Its EXIF orientation is {turn}, and upright, as viewers show it, its sides are"
            " exchanged: annotations must belong to the upright image. If these were made on the"
            " image as it is stored, delete the entry (exiftool -Orientation= FILE)"
            if turn >= 5
            else "; are height and width exchanged in the annotation?"
        )
    raise LabkitError(message)
