"""Progress bars: one for a loop (tqdm), and several at the foot of the terminal (rich)."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

if TYPE_CHECKING:  # rich takes long to import, and loops need tqdm alone
    from rich.progress import Progress


def progress_bar(iterable: Any = None, **options: Any) -> tqdm[Any]:
    """Wrap an iterable in tqdm's bar: on the error stream in a terminal, as output in a notebook.

    A notebook marks the error stream as a failure, hence the other stream there. tqdm's own
    notebook bar is a widget, which headless runs and saved pages cannot show.

    Args:
        iterable: as tqdm takes it.
        **options: tqdm's.
    """
    if "ipykernel" in sys.modules:
        # Every redraw is kept in the notebook's file, so a notebook gets few. The bar goes away in
        # the end: what stays in a lesson's output is what the lesson wants to show.
        options = {"file": sys.stdout, "mininterval": 1.0, "leave": False, **options}
        # tqdm reads the variable only where the caller leaves `disable` open.
        options["disable"] = options.get("disable") or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(iterable, **options)


class LiveBars:
    """Base of a command's progress display: shows rich's ``bars`` within a ``with`` block."""

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
