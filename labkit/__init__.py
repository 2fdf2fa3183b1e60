"""labkit: learn instance and panoptic segmentation by building it."""

from typing import Any

from labkit.system.deferred_imports import defer
from labkit.workbook.records import record

__all__ = ["record"]

defer()


def __getattr__(name: str) -> Any:
    # On demand, because reading the metadata of what is installed takes its time.
    if name == "__version__":
        from importlib.metadata import version

        return version("labkit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
