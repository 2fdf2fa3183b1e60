"""Image files to tensors, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from labkit.errors import LabkitError


def read_image(path: Path, size: tuple[int, int] | None = None, *, upright: bool = False) -> Tensor:
    """``(3, H, W)`` uint8 RGB. Grey and palette images get three channels, 16-bit ones keep their
    upper byte, transparency is dropped.

    Args:
        path: the file, of any format that Pillow reads.
        size: the (H, W) it must have.
        upright: turn a photograph as its EXIF entry says. Data sets leave it: annotations are made
            on the rows as they are stored.

    Raises:
        LabkitError: the file is missing, truncated, no image, of more pixels than Pillow agrees to
            read, of fractional numbers, or of other size.
    """
    try:
        with Image.open(path) as stored:
            image = ImageOps.exif_transpose(stored) if upright else stored
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
    except FileNotFoundError:
        raise LabkitError(f"{path}: image not found") from None
    except (IsADirectoryError, PermissionError) as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from None
    except Image.DecompressionBombError as error:
        raise LabkitError(f"{path}: too large ({error}); make it smaller first") from None
    except UnidentifiedImageError:
        raise LabkitError(f"{path}: not an image file that can be read") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for damaged files
        raise LabkitError(f"{path}: the image is damaged ({error}); fetch it again") from None
    if size is not None and rgb.shape[:2] != tuple(size):
        raise LabkitError(
            f"{path}: the image is {rgb.shape[0]} x {rgb.shape[1]}, its annotation says"
            f" {size[0]} x {size[1]} pixels (height x width)"
        )
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
