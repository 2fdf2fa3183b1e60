"""The one progress bar: in a terminal on the error stream, in a notebook as ordinary output."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(iterable: Any = None, **options: Any) -> tqdm[Any]:
    """tqdm's bar with tqdm's options.

    A notebook shows the error stream as if something had gone wrong, hence the other stream there.
    tqdm's own notebook bar is a widget, which headless runs and saved pages cannot show.
    """
    if "ipykernel" in sys.modules:
        # Every redraw is kept in the notebook's file, so a notebook gets few.
        options = {"file": sys.stdout, "mininterval": 1.0, **options}
    return tqdm(iterable, **options)
