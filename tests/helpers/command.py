"""The command ``labkit`` in this process: a new one would take longer to import torch than to run.

What concerns the start itself (Ctrl-C, imports, completion, the wheel) is tested with processes.
"""

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass
from unittest import mock

from labkit.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def labkit(*arguments):
    """Run the command with these arguments."""
    out, error, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        mock.patch.object(sys, "argv", ["labkit", *map(str, arguments)]),
        mock.patch.object(warnings, "formatwarning", warnings.formatwarning),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    return Done(status, out.getvalue(), error.getvalue())
