"""Execution of a notebook with limits on its outputs: in memory, in the file, in the report.

A loop that prints without end fills a gigabyte in seconds. What a cell shows beyond a limit is left
out, with a note in its place; a cell that goes on and on beyond a far higher one is reported, for
the runner to stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import nbformat
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine

from labkit.workbook.outcome import MOST
from labkit.workbook.records import RECORD_MIME

KEPT = 20_000_000  # characters of one cell's outputs
KEPT_OF_ALL = 200_000_000  # of all cells' together
OVERHEAD = 200  # of every output, however small


class BoundedClient(PapermillNotebookClient):
    """Papermill's client, with bounded outputs.

    Args:
        on_flood: called once with the position of a cell that shows more than ``MOST``.
    """

    def __init__(self, *args: Any, on_flood: Callable[[int], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_flood = on_flood
        self.cell = -1
        self.shown = self.kept = self.kept_of_all = 0
        self.flooded = self.noted = False

    def output(
        self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> Any:
        """Store an output; shorten or drop it above the limits."""
        if cell_index != self.cell:
            self.cell, self.shown, self.kept, self.noted = cell_index, 0, 0, False
        content = msg["content"]
        size = _size(content) + OVERHEAD
        self.shown += size
        if self.shown > MOST and not self.flooded:
            self.flooded = True
            self.on_flood(cell_index)
        left = min(KEPT - self.kept, KEPT_OF_ALL - self.kept_of_all)
        # What ended the cell and what it records are small and the point of the run.
        needed = msg["msg_type"] == "error" or RECORD_MIME in content.get("data", {})
        if size > left and not needed:
            if not self.noted:
                self.noted = True
                if msg["msg_type"] == "stream" and left > OVERHEAD:
                    outs.append(_stream(content["name"], content["text"][: left - OVERHEAD]))
                    self._keep(left)
                outs.append(
                    _stream(
                        "stderr",
                        f"\n[labkit: more than {KEPT / 1e6:g} MB in one cell, or "
                        f"{KEPT_OF_ALL / 1e6:g} MB in all; the rest of this cell's output is left "
                        "out]\n",
                    )
                )
            return None
        self._keep(size)
        return super().output(outs, msg, display_id, cell_index)

    def clear_output(self, outs: list[Any], msg: dict[str, Any], cell_index: int) -> None:
        """Remove the outputs of a cell and reset its count."""
        super().clear_output(outs, msg, cell_index)
        if cell_index == self.cell:
            self.kept_of_all -= self.kept
            self.shown = self.kept = 0
            self.noted = False

    def _keep(self, size: int) -> None:
        self.kept += size
        self.kept_of_all += size


class BoundedEngine(Engine):
    """A papermill engine with :class:`BoundedClient`."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Execute the cells."""
        return BoundedClient(nb_man, kernel_name=kernel_name, **options).execute()


def _size(content: dict[str, Any]) -> int:
    if "text" in content:
        return len(content["text"])
    return sum(
        len(value) if isinstance(value, str) else len(json.dumps(value))
        for value in content.get("data", {}).values()
    )


def _stream(name: str, text: str) -> Any:
    return nbformat.v4.new_output("stream", name=name, text=text)
