"""The ``labkit`` command: one file per group of commands, loaded by :mod:`labkit.cli.commands`."""

from __future__ import annotations

import os
import sys

from labkit.errors import INTERRUPTED, LabkitError


def main() -> None:
    """Run the command line; a user's mistake prints one message and exits with status 1."""
    try:
        try:
            _run()
        finally:
            # Catch a closed pipe (`| head`) here; at exit Python would print a message about it.
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run() -> None:
    # All imports are within: Ctrl-C may come during them.
    import warnings

    from labkit.cli.commands import app

    # Users need the text of a warning, but not the line of code that raises it.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except LabkitError as error:
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
