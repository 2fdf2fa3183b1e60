"""Image files to tensors, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from labkit.errors import LabkitError


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """``(3, H, W)`` uint8 RGB. The stored rows are taken as they are; an EXIF turn is not applied,
    because annotations are made on the stored rows.

    Args:
        path: the file, of any format that Pillow reads.
        size: the (H, W) it must have.

    Raises:
        LabkitError: the file is missing, truncated, no image, or of other size.
    """
    try:
        with Image.open(path) as image:
            rgb = np.array(image.convert("RGB"))  # a copy: a tensor needs writable memory
    except FileNotFoundError:
        raise LabkitError(f"{path}: image not found") from None
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
