"""Interactive apps for the notebooks: thin ipywidgets over functions that draw the same figures.

Every app has a headless function that returns its figure and needs no browser. The apps are
imported on first use, so that the functions work without the widget libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

_APPS = {
    "Compare": "labkit.widgets.compare.app",
    "SegmentViewer": "labkit.widgets.viewer.viewer",
    "PQMatching": "labkit.widgets.pq_matching.app",
    "RoIAlignExplorer": "labkit.widgets.roi_align.app",
    "AnchorsNMS": "labkit.widgets.anchors_nms.app",
}

__all__ = sorted(_APPS)


def __getattr__(name: str) -> Any:
    if name in _APPS:
        return getattr(importlib.import_module(_APPS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_APPS])
