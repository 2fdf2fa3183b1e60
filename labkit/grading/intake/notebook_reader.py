"""Reading submitted notebooks: from untrusted bytes to cells, with checks of every part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from labkit.grading.authoring.probes import Limits

MAX_FILE_BYTES = 200_000_000  # bytes of a file that are read
MAX_CODE = 500_000  # characters; people write at most a tenth of it


class BadNotebook(Exception):
    """A file that is not a notebook, or too large; the message is for the student."""


@dataclass(frozen=True)
class StudentCell:
    """A cell of a submitted notebook.

    Attributes:
        kind: ``code``, ``markdown``, ``raw`` or any other type in the file.
        source: its content.
        exercise, question, role: from its metadata; empty if missing.
    """

    kind: str
    source: str
    exercise: str = ""
    question: str = ""
    role: str = ""


def parse(content: bytes) -> dict[str, Any]:
    """Parse the file of a notebook.

    Raises:
        BadNotebook: the file is not JSON in UTF-8, or not a notebook.
    """
    if len(content) >= MAX_FILE_BYTES:
        raise BadNotebook(f"the file has more than {MAX_FILE_BYTES / 1e6:g} MB; clear the outputs")
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadNotebook(f"the file is not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error)[:100] or type(error).__name__
        raise BadNotebook(f"the file is not JSON: {reason}") from None
    if not isinstance(notebook, dict) or not isinstance(_raw_cells(notebook), list):
        raise BadNotebook("the file is JSON, but not a notebook: it has no cells")
    return notebook


def cells_of(notebook: dict[str, Any], limits: Limits) -> list[StudentCell]:
    """Return the cells of a parsed notebook of any version of the format.

    Raises:
        BadNotebook: there are too many cells, they are too large, or one is malformed.
    """
    raw = _raw_cells(notebook)
    if len(raw) > limits.cells:
        raise BadNotebook(f"{len(raw)} cells; at most {limits.cells} are graded")
    cells = [_read(cell, number) for number, cell in enumerate(raw, 1)]
    # Only cells count: not outputs, pasted images or the state of widgets.
    size = sum(len(cell.source.encode()) for cell in cells)
    if size > limits.notebook_mb * 1e6:
        raise BadNotebook(
            f"the cells have {size / 1e6:.1f} MB without outputs; at most "
            f"{limits.notebook_mb:g} MB are graded"
        )
    code = sum(len(cell.source) for cell in cells if cell.kind == "code")
    if code > MAX_CODE:
        raise BadNotebook(f"{code / 1e6:.1f} MB of code; at most {MAX_CODE / 1e6:g} are graded")
    return cells


def _raw_cells(notebook: dict[str, Any]) -> Any:
    if "cells" in notebook:
        return notebook["cells"]
    sheets = notebook.get("worksheets")  # version 3 and older
    if not isinstance(sheets, list):
        return None
    cells = list[Any]()
    for sheet in sheets:
        if not isinstance(sheet, dict) or not isinstance(sheet.get("cells"), list):
            return None
        cells += sheet["cells"]
    return cells


def _read(cell: Any, number: int) -> StudentCell:
    if not isinstance(cell, dict):
        raise BadNotebook(f"cell {number} is malformed")
    source = cell.get("source", cell.get("input", ""))  # "input" in version 3
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    kind = cell.get("cell_type")
    if not isinstance(source, str) or not isinstance(kind, str):
        raise BadNotebook(f"cell {number} is malformed")
    metadata = cell.get("metadata")
    mark = metadata.get("labkit") if isinstance(metadata, dict) else None
    names = mark if isinstance(mark, dict) else {}

    def name(key: str) -> str:
        found = names.get(key, "")
        return found if isinstance(found, str) else ""

    # Half of a surrogate pair cannot be written to a file.
    source = source.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return StudentCell(kind, source, name("exercise"), name("question"), name("role"))
