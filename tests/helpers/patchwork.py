"""Pictures for golden runs: made of numbers, so that none needs to be kept."""

import zlib

import numpy as np
import torch


def patchwork(name, size):
    """``(3, H, W)`` uint8 RGB: large random patches with a little noise.

    Args:
        name: another name is another picture.
        size: (H, W).
    """
    height, width = size
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    patches = rng.integers(0, 256, (3, height // 25 + 1, width // 25 + 1))
    fine = np.kron(patches, np.ones((1, 25, 25)))[:, :height, :width]
    fine += rng.normal(0, 12, fine.shape)
    return torch.from_numpy(fine.clip(0, 255).astype(np.uint8))
