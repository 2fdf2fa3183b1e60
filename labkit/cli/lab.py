"""``labkit lab``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from labkit.errors import LabkitError
from labkit.notebooks import find_root, resolve


def lab(
    notebook: Annotated[
        str | None,
        typer.Argument(help="Number or name of the notebook to open.", show_default=False),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="Port; the next free one if taken.")] = 8888,
    allow_root: Annotated[
        bool, typer.Option("--allow-root", help="Run as root, as in a container.")
    ] = False,
) -> None:
    """Open JupyterLab on the workbook."""
    root = find_root()
    opened = root / "notebooks"
    if notebook is not None:
        opened = resolve(notebook, root)
    from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]

    # In this very process, so that the terminal's Ctrl-C is JupyterLab's own.
    LabApp.launch_instance(
        lab_arguments(root, opened, browser=browser, port=port, allow_root=allow_root)
    )


def lab_arguments(
    root: Path, opened: Path, *, browser: bool, port: int, allow_root: bool
) -> list[str]:
    """Return JupyterLab's own command line.

    The file browser's top is the project folder, so that assignments and data can be reached;
    no news, no update check: it works without a network.

    Raises:
        LabkitError: the notebook to open is outside the project folder.
    """
    if not opened.is_relative_to(root):
        raise LabkitError(f"{opened} is not in {root}: open a notebook of the workbook")
    return [
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.port={port}",
        f"--LabApp.default_url=/lab/tree/{quote(opened.relative_to(root).as_posix())}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        *([] if browser else ["--no-browser"]),
        *(["--allow-root"] if allow_root else []),
    ]
