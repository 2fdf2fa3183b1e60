"""labkit: learn instance and panoptic segmentation by building it."""

from labkit.records import record

__all__ = ["record"]
