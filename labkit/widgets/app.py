"""Base class of all apps: visible errors, keyboard focus, and a static fallback picture.

A callback that fails inside a widget is seen neither in the notebook nor in the server's log, so
:meth:`App.guarded` puts the message under the app. With a menu focused JupyterLab still takes the
keys, and ``d d`` deletes the cell, so ``app.js`` marks everything that can have the focus as
keeping its keys. Without a live widget (in an untrusted notebook, after the kernel has ended,
on a printed page) the output still holds a picture and a text.
"""

from __future__ import annotations

import base64
import functools
import io
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from labkit.errors import LabkitError
from labkit.widgets.offline_page import MIME
from labkit.workbook.records import RECORDING

DPI = 100
"""Pixels per inch of every figure turned into PNG, whatever the reader's matplotlib settings."""


def png(figure_or_array: Figure | np.ndarray) -> bytes:
    """Render a figure to PNG, with the same bytes for the same figure.

    Args:
        figure_or_array: a matplotlib figure, or ``(H, W, 3)`` uint8 RGB.
    """
    buffer = io.BytesIO()
    if isinstance(figure_or_array, Figure):
        # Without the metadata the bytes would name the version of matplotlib.
        figure_or_array.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    else:
        Image.fromarray(figure_or_array).save(buffer, format="png")
    return buffer.getvalue()


def data_address(data: bytes) -> str:
    """Address of a PNG that holds the PNG itself."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def with_still(
    bundle: dict[str, Any],
    still: Callable[[], tuple[bytes, str]],
    offline: Callable[[], str],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Add to a widget's MIME bundle what is shown without a kernel.

    That is ``image/png`` and ``text/plain`` and, in ``labkit run``, a piece of HTML that answers
    in a page (:mod:`labkit.widgets.offline_page`).

    Args:
        bundle: what ipywidgets would send.
        still: makes the PNG and its text.
        offline: makes the piece of HTML.
        report: told the message if that fails; the widget itself is shown all the same.
    """
    try:
        data, text = still()
        bundle = {**bundle, "image/png": base64.b64encode(data).decode(), "text/plain": text}
        return {**bundle, MIME: offline()} if os.environ.get(RECORDING) else bundle
    except Exception as error:
        report(message_of(error))
        return bundle


def message_of(error: Exception) -> str:
    """Message of an exception: labkit's own unchanged, any other with its type and place."""
    if isinstance(error, LabkitError):
        return str(error)
    lines = traceback.format_tb(error.__traceback__)[-2:]
    return f"{type(error).__name__}: {error}\n" + "".join(lines).rstrip()


class _Frame(anywidget.AnyWidget):
    """Status line and error panel of an app; keeps the app's keys from JupyterLab."""

    _esm = Path(__file__).with_name("app.js")
    _css = Path(__file__).with_name("app.css")
    status = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    ready = traitlets.Int(0).tag(sync=True)


class App(ipywidgets.VBox):
    """Base class of an app: controls and pictures, a status line, and an error panel.

    Its element has the classes ``labkit-app`` and ``labkit-NAME`` and the attribute ``data-ready``,
    the number of changes that are finished. Subclasses wrap every callback in :meth:`guarded`,
    call :meth:`ready` when a change has reached the page, and define :meth:`still` and
    :meth:`offline`.

    Args:
        name: a short name for the class on the element, for example ``compare``.
        children: the widgets, from top to bottom.
    """

    def __init__(self, name: str, children: Sequence[ipywidgets.Widget]) -> None:
        self._frame = _Frame()
        super().__init__(children=[*children, self._frame])
        self.add_class("labkit-app")
        self.add_class(f"labkit-{name}")

    @property
    def status(self) -> str:
        """Line under the app; screen readers read it when it changes."""
        return str(self._frame.status)

    @status.setter
    def status(self, text: str) -> None:
        self._frame.status = text

    @property
    def error(self) -> str:
        """Message in the error panel; empty while the panel is hidden."""
        return str(self._frame.error)

    @error.setter
    def error(self, text: str) -> None:
        self._frame.error = text

    def guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``callback``: its exceptions show in the error panel, its next success clears it.

        Wrap every function given to ``observe``, ``on_click`` or ``on_msg``. A failure counts as
        :meth:`ready`; after a success the app says so itself, as its work may go on in a thread.
        """

        @functools.wraps(callback)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                result = callback(*args, **kwargs)
            except Exception as error:
                self.error = message_of(error)
                self.ready()
                return None
            self.error = ""
            return result

        return run

    def ready(self) -> None:
        """Signal that a change is finished: increment the page's ``data-ready``."""
        self._frame.ready += 1

    def still(self) -> tuple[bytes, str]:
        """PNG of the current state, as the headless function draws it, and its text alternative."""
        raise NotImplementedError

    def offline(self) -> str:
        """HTML that answers in a page without a kernel (:mod:`labkit.widgets.offline_page`)."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        return with_still(
            bundle, self.still, self.offline, lambda text: setattr(self, "error", text)
        )
