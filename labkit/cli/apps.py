"""``labkit app``: an app alone in the browser, without JupyterLab around it."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion
from labkit.cli.options import LARGEST_UPLOAD
from labkit.errors import LabkitError

app = typer.Typer(help="The notebooks' apps, each alone in the browser.", no_args_is_help=True)


@app.callback()
def apps() -> None:
    """The notebooks' apps, each alone in the browser."""


@app.command()
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Names of `labkit zoo list` or folders of `labkit train`; without any, those that"
            " come with labkit and those that were fetched.",
            autocompletion=completion.models,
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Begin with this picture instead of one of Shapes.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="Port; the next free one if taken.")] = 8866,
) -> None:
    """Compare models side by side on a picture: serve that app through Voilà, until Ctrl-C."""
    if importlib.util.find_spec("voila") is None:
        raise LabkitError(
            "Voilà, which serves apps without JupyterLab, is not installed; install it with"
            " `uv sync --extra apps` (or `pip install voila`), or open notebook 4 with"
            " `labkit lab 4`, which has the same app"
        )
    cell = compare_cell(models or [], image)
    import nbformat
    from traitlets.config import Config
    from voila.app import Voila  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(prefix="labkit_app_") as folder:
        path = Path(folder) / "compare.ipynb"
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, path)
        # In this very process, so that the terminal's Ctrl-C is Voilà's own.
        settings = {"tornado_settings": {"websocket_max_message_size": LARGEST_UPLOAD}}
        Voila.launch_instance(
            voila_arguments(path, browser=browser, port=port), config=Config(Voila=settings)
        )


def compare_cell(models: list[str], image: Path | None) -> str:
    """The one cell of the notebook that is served; the app itself says which model is not there.

    Raises:
        LabkitError: there is no such picture.
    """
    if image is not None and not image.is_file():
        raise LabkitError(f"{image}: image not found")
    arguments = [json.dumps(models)] if models else []
    if image is not None:
        arguments.append(f"image={json.dumps(str(image))}")
    # The kernel begins in the notebook's folder; what the reader names is relative to the shell's.
    lines = [
        "import os",
        f"os.chdir({json.dumps(str(Path.cwd()))})",
        "from labkit.widgets import Compare",
        f"Compare({', '.join(arguments)})",
    ]
    return "\n".join(lines)


def voila_arguments(path: Path, *, browser: bool, port: int) -> list[str]:
    """Voilà's own command line, with an address that others on the machine cannot guess."""
    return [
        str(path),
        f"--port={port}",
        "--token",
        "--show_tracebacks=True",
        *([] if browser else ["--no-browser"]),
    ]
