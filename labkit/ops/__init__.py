"""Operators on boxes and feature maps, drop-in for torchvision's signatures."""

from labkit.ops.roi_align import roi_align
from labkit.ops.roi_pool import roi_pool
from labkit.ops.roi_warp import roi_warp

__all__ = ["roi_align", "roi_pool", "roi_warp"]
