"""``labkit lab``: JupyterLab on the workbook."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from labkit.cli import completion
from labkit.cli.options import LARGEST_UPLOAD
from labkit.errors import LabkitError
from labkit.system.paths import CARRIED, PACKAGE, may_write
from labkit.workbook.copy_workbook import copy_workbook
from labkit.workbook.find_notebook import find_openable
from labkit.workbook.lab_start_page import START, write_lab_start_page
from labkit.workbook.notebook_sources import find_root

COPY = "labkit-workbook"
"""Default folder of the copy, in the home folder."""

EXTENSIONS = {
    "@jupyter-widgets/jupyterlab-manager": "jupyterlab_widgets",
    "anywidget": "anywidget",
}
"""JupyterLab extensions that the apps need, and the packages that provide them."""


SETTINGS = PACKAGE / "jupyter"
"""Defaults for JupyterLab in the form of one of its configuration folders.

Markdown, such as the start page, opens as a page and not in an editor. JupyterLab asks its users
once whether to fetch news, whatever address of the news its command line has.
"""


def lab(
    notebook: Annotated[
        str | None,
        typer.Argument(
            help="Number, name or path of the lesson or assignment to open.",
            autocompletion=completion.openable,
            show_default=False,
        ),
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option(
            help="Work on a copy of the notebooks in this folder; existing files are kept. Without"
            f" a writable checkout, the copy is in ~/{COPY}.",
            show_default=False,
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="Port; the next free one if taken.")] = 8888,
    allow_root: Annotated[
        bool, typer.Option("--allow-root", help="Run as root, as in a container.")
    ] = False,
) -> None:
    """Open JupyterLab on the workbook, with its apps enabled."""
    root = find_root()
    opened = root / START if notebook is None else find_openable(notebook, root)
    if copy is None and not may_write(root / "notebooks"):
        copy = Path.home() / COPY
        if root != CARRIED:
            typer.echo(f"{root / 'notebooks'} cannot be written")
    if copy is not None:
        original, root = root, copy_workbook(root, copy)
        typer.echo(f"opening the copy in {root}")
        if opened.is_relative_to(original):
            opened = root / opened.relative_to(original)
    elif notebook is None:
        write_lab_start_page(root)
    from jupyter_core.paths import jupyter_path
    from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]

    # A whole dictionary in one argument: the form that replaces it can only give strings.
    warnings.filterwarnings("ignore", message="--ServerApp.tornado_settings")
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [before, str(SETTINGS)]))
    check_widgets([Path(folder) for folder in jupyter_path("labextensions")])
    # In this process, so that JupyterLab receives the terminal's Ctrl-C.
    LabApp.launch_instance(
        lab_arguments(root, opened, browser=browser, port=port, allow_root=allow_root)
    )


def check_widgets(folders: list[Path]) -> None:
    """Check that the JupyterLab extensions of the apps are installed.

    Raises:
        LabkitError: one is missing, and apps would stay blank.
    """
    for extension, package in EXTENSIONS.items():
        if not any((folder / extension / "package.json").is_file() for folder in folders):
            raise LabkitError(
                f"JupyterLab's extension {extension} is not installed, and without it the notebooks"
                f" show no apps; install it again: uv sync --reinstall-package {package} (or pip"
                f" install --force-reinstall {package})"
            )


def lab_arguments(
    root: Path, opened: Path, *, browser: bool, port: int, allow_root: bool
) -> list[str]:
    """Build JupyterLab's command line.

    The file browser's top is the project folder, so that assignments and data are visible. News and
    update checks are off, so that it works without a network.

    Raises:
        LabkitError: the notebook to open is outside the project folder.
    """
    if not opened.is_relative_to(root):
        raise LabkitError(f"{opened} is not in {root}: open a notebook of the workbook")
    return [
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.port={port}",
        f"--ServerApp.tornado_settings={{'websocket_max_message_size': {LARGEST_UPLOAD}}}",
        f"--LabApp.default_url=/lab/tree/{quote(opened.relative_to(root).as_posix())}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        *([] if browser else ["--no-browser"]),
        *(["--allow-root"] if allow_root else []),
    ]
