"""Bars that a command keeps at the foot of the terminal while it works."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import Progress


class LiveBars:
    """``with`` shows rich's ``bars``, and takes them away at the end."""

    bars: Progress

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bars.stop()
