"""The models by name: every number of every model that labkit builds is in this file."""

from __future__ import annotations

from labkit.errors import LabkitError
from labkit.models.deeplab import DeepLab, DeepLabConfig
from labkit.models.fcn import FCN, FCNConfig
from labkit.structures import Categories

TINY_WIDTHS = (32, 64, 96, 128)
TINY_BLOCKS = (1, 1, 1, 1)

PRESETS: dict[str, FCNConfig | DeepLabConfig] = {
    "fcn32_tiny": FCNConfig(TINY_WIDTHS, TINY_BLOCKS, stride=32),
    "fcn8_tiny": FCNConfig(TINY_WIDTHS, TINY_BLOCKS, stride=8),
    # Rates 1, 2, 4 at stride 8 reach 8, 16 and 32 pixels to either side: a quarter of a 128-pixel
    # image, as the paper's 12, 24, 36 are of its 513-pixel crops.
    "deeplab_tiny": DeepLabConfig(
        TINY_WIDTHS, TINY_BLOCKS, output_stride=8, rates=(1, 2, 4), channels=64, skip_channels=32
    ),
}


def build(preset: str, categories: Categories) -> FCN | DeepLab:
    """A model with fresh weights (seed torch first to make them repeatable).

    Args:
        preset: a name in ``PRESETS``.
        categories: of the data set; the number of classes follows.

    Raises:
        LabkitError: unknown preset.
    """
    if preset not in PRESETS:
        raise LabkitError(f"preset: {preset!r} is not one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset].build(categories)
