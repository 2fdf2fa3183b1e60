"""The option ``--json``: numbers for programs, in addition to the printed tables."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

STANDARD_OUTPUT = Path("-")


def _leave_standard_output(context: typer.Context, path: Path | None) -> Path | None:
    if path == STANDARD_OUTPUT:
        context.with_resource(redirect_stdout(sys.stderr))
    return path


Json = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=_leave_standard_output,
        help="Also write the numbers to this file; - writes them, and nothing else, to standard"
        " output.",
    ),
]


def write_numbers(path: Path, numbers: Any) -> None:
    """Write numbers to the file of ``--json``.

    Raises:
        LabkitError: the file cannot be written.
    """
    if path == STANDARD_OUTPUT:
        print(json.dumps(numbers), file=sys.__stdout__, flush=True)
        return
    from labkit.datasets.coco.panoptic_json import write_json

    write_json(path, numbers)
