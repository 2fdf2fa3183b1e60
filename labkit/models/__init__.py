"""Readable segmentation models, one concept a file."""

from labkit.models.presets import PRESETS, build

__all__ = ["PRESETS", "build"]
