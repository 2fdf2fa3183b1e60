"""Files in the layout of Penn-Fudan."""

import numpy as np
from PIL import Image


def write_photographs(folder, count):
    """Noise with one dark rectangle, in Penn-Fudan's layout."""
    random = np.random.default_rng(0)
    for part in ("PNGImages", "PedMasks"):
        (folder / "PennFudanPed" / part).mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(100, 200, (40, 40, 3), dtype=np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        mask[5:35, 10:20], pixels[5:35, 10:20] = 1, 20
        root = folder / "PennFudanPed"
        Image.fromarray(pixels).save(root / "PNGImages" / f"street{i:02}.png")
        Image.fromarray(mask).save(root / "PedMasks" / f"street{i:02}_mask.png")
