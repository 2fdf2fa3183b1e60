"""Reading mask files of any program into class codes; ambiguous files are refused.

The pixels of a mask are codes, not brightness. JPEG compression, smooth edges and fractional
numbers add codes that nobody drew; palettes, transparency and files of two or four bits change
codes.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labkit.datasets.image_files import open_image, orientation, upright
from labkit.errors import LabkitError
from labkit.system.message_text import counted

TRANSPARENT = -1
"""Code of a transparent pixel."""

Code = int | tuple[int, int, int]


def packed(code: Code) -> int:
    """Pack a code into one number: a value unchanged, a colour as R, G, B bytes."""
    return code if isinstance(code, int) else code[0] << 16 | code[1] << 8 | code[2]


def unpacked(value: int, colors: bool) -> Code:
    """Unpack a number into a code; the inverse of :func:`packed`."""
    return (value >> 16, value >> 8 & 255, value & 255) if colors else value


def read_codes(
    path: Path,
    size: tuple[int, int],
    image: Path,
    colors: bool,
    labels: frozenset[int],
    void: frozenset[int],
) -> NDArray[np.int64]:
    """Read the packed codes ``(H, W)`` of a mask of classes or instances.

    Args:
        path: the mask, which is turned upright like its image.
        size: (H, W) of the image.
        image: its file, for messages.
        colors: whether codes are colours.
        labels, void: codes of classes and of no class; they decide whether a palette's indices or
            greys are the codes.

    Raises:
        LabkitError: the file is damaged, of another size, has fractional or half transparent
            pixels, or has colours although the codes are values.
    """
    with open_image(path, "mask") as stored:
        bits = _bits(path, stored)
        picture = upright(stored)
        _check(path, picture, size, image)
        if colors:
            rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
            codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        elif picture.mode == "P":
            return _palette_values(picture, labels, void)
        elif picture.mode in ("RGB", "RGBA"):
            rgb = np.asarray(picture.convert("RGB"))
            if (rgb != rgb[..., :1]).any():
                raise LabkitError(
                    f"{path}: is in colours, the category file has values; give the categories"
                    " color instead"
                )
            codes = rgb[..., 0].astype(np.int64)
        elif picture.mode == "LA":
            codes = np.asarray(picture)[..., 0].astype(np.int64)
        elif picture.mode in ("1", "L") or picture.mode.startswith("I"):
            codes = np.asarray(picture).astype(np.int64)
            if bits in (2, 4):  # Pillow spreads them over 0 to 255
                codes //= 255 // (2**bits - 1)
        else:
            raise LabkitError(
                f"{path}: is in {picture.mode}; save the mask as a PNG in grey, in colours or with"
                " a palette"
            )
        alpha = _alpha(picture)
    if alpha is not None:
        if ((alpha > 0) & (alpha < 255)).any():
            raise LabkitError(
                f"{path}: has half transparent pixels: a pixel of a mask is of one class or of"
                " none; save it without smooth edges"
            )
        codes[alpha == 0] = TRANSPARENT
    return codes


def read_object(path: Path, size: tuple[int, int], image: Path) -> NDArray[np.bool_]:
    """Read the mask ``(H, W)`` of a file with one object: the opaque, else the non-black pixels.

    Smooth or lossy edges are thresholded at half.

    Raises:
        LabkitError: as :func:`read_codes`; or the file has colours or several greys, so the object
            is ambiguous.
    """
    with open_image(path, "mask") as stored:
        picture = upright(stored)
        _check(path, picture, size, image)
        alpha = _alpha(picture)
        opaque = alpha is None or bool((alpha == 255).all())
        values = _greys(path, picture) if alpha is None or opaque else alpha.astype(np.int64)
    levels = np.unique(values)
    largest = int(levels[-1])
    if len(levels) == 1 or levels.tolist() == [0, largest]:
        return np.greater(values, 0)
    full = 255 if largest <= 255 else 65535
    if largest <= full // 2:
        raise LabkitError(
            f"{path}: has {len(levels)} values up to {largest}; a file of one object is black and"
            " white. Is it a mask of several objects or classes?"
        )
    return np.greater(values, full // 2)


def is_lossy(path: Path) -> bool:
    """Whether the file's format is lossy and changes codes."""
    with open_image(path, "mask") as picture:
        return picture.format in ("JPEG", "MPO", "JPEG2000")


def _check(path: Path, picture: Image.Image, size: tuple[int, int], image: Path) -> None:
    found = (picture.height, picture.width)
    if found != size:
        with open_image(image) as stored:
            turn = orientation(stored)
        note = (
            f", as it is upright: its EXIF orientation is {turn}. A mask belongs to the upright"
            " image; if it was drawn on the stored one, delete the entry (exiftool -Orientation="
            " FILE)"
            if turn >= 5
            else ""
        )
        raise LabkitError(
            f"{path}: the mask is {found[0]} x {found[1]}, its image {size[0]} x {size[1]} pixels"
            f" (height x width){note}"
        )
    if picture.mode == "F":
        raise LabkitError(
            f"{path}: the pixels are fractional numbers; save the mask with whole numbers, of 8 or"
            " 16 bits"
        )


def _alpha(picture: Image.Image) -> NDArray[np.uint8] | None:
    """Alpha channel of an image, 0 to 255; None if it has no transparency."""
    if picture.mode in ("LA", "RGBA", "PA"):
        return np.asarray(picture.getchannel("A"))
    if "transparency" in picture.info and picture.mode in ("P", "L", "RGB"):
        return np.asarray(picture.convert("RGBA").getchannel("A"))
    return None


def _greys(path: Path, picture: Image.Image) -> NDArray[np.int64]:
    if picture.mode in ("1", "L") or picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.int64)
    if picture.mode == "LA":
        return np.asarray(picture)[..., 0].astype(np.int64)
    rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
    if picture.mode == "P" and (rgb == rgb[0, 0]).all():  # a palette that shows nothing
        return np.asarray(picture).astype(np.int64)
    found = len(np.unique(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]))
    # A JPEG's colours are a step or two off grey.
    if found > 2 and np.ptp(rgb, axis=2).max() > 8:
        raise LabkitError(
            f"{path}: is in {counted(found, 'colour')}; a file of one object is black and white."
            " Is it the image, or a mask of classes?"
        )
    return rgb.max(axis=2)


def _palette_values(
    picture: Image.Image, labels: frozenset[int], void: frozenset[int]
) -> NDArray[np.int64]:
    """Palette indices of an image, or its greys if these are the codes of classes.

    Programs that compress a grey mask put its values into a palette, in any order.
    """
    numbers = np.asarray(picture).astype(np.int64)
    rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
    if (rgb != rgb[..., :1]).any():
        return numbers
    greys = set(np.unique(rgb[..., 0]).tolist())
    return rgb[..., 0] if greys & labels and greys <= labels | void else numbers


def _bits(path: Path, picture: Image.Image) -> int:
    """Bits per grey value of a PNG; 8 for other files."""
    if picture.format != "PNG" or picture.mode != "L":
        return 8
    with path.open("rb") as file:
        head = file.read(26)
    return int(struct.unpack_from(">B", head, 24)[0])
