"""Exported models without PyTorch: ``labkit export`` writes a folder, NumPy and onnxruntime run it.

    model = load("exported")
    result = model("street.jpg")
    result.boxes, result.masks, result.panoptic, result.segments

The graphs are the parts of the networks with fixed steps. What depends on the data is NumPy here:
top-k, NMS, pasting of masks, panoptic maps. Nothing of this folder imports another part of labkit
but :mod:`labkit.errors`, so that it can be copied into a program of its own.
"""

from labkit.deploy.exported import load
from labkit.deploy.result import Result

__all__ = ["Result", "load"]
