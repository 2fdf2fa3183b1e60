"""Shapes, the synthetic panoptic data set."""

from labkit.datasets.shapes.dataset import Shapes

__all__ = ["Shapes"]
