"""``labkit app``: an app of the notebooks in a browser window, without JupyterLab."""

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

app = typer.Typer(help="Open an app of the notebooks without JupyterLab.", no_args_is_help=True)


@app.callback()
def apps() -> None:
    """Open an app of the notebooks without JupyterLab."""


@app.command()
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Names of `labkit zoo list`, or folders of `labkit train`; default: labkit's own"
            " weights and the fetched ones.",
            autocompletion=completion.models,
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Start with this image instead of one of Shapes.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="Port; the next free one if taken.")] = 8866,
) -> None:
    """Compare models side by side on an image; Voilà serves the app until Ctrl-C."""
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
        # In this process, so that Voilà receives the terminal's Ctrl-C.
        settings = {"tornado_settings": {"websocket_max_message_size": LARGEST_UPLOAD}}
        Voila.launch_instance(
            voila_arguments(path, browser=browser, port=port), config=Config(Voila=settings)
        )


def compare_cell(models: list[str], image: Path | None) -> str:
    """Code of the served notebook's only cell; the app reports unknown models.

    Raises:
        LabkitError: the image does not exist.
    """
    if image is not None and not image.is_file():
        raise LabkitError(f"{image}: image not found")
    arguments = [json.dumps(models)] if models else []
    if image is not None:
        arguments.append(f"image={json.dumps(str(image))}")
    # The kernel starts in the notebook's folder; paths of the user are relative to the shell's.
    lines = [
        "import os",
        f"os.chdir({json.dumps(str(Path.cwd()))})",
        "from labkit.widgets import Compare",
        f"Compare({', '.join(arguments)})",
    ]
    return "\n".join(lines)


def voila_arguments(path: Path, *, browser: bool, port: int) -> list[str]:
    """Build Voilà's command line, with a token so that other users cannot open the app."""
    return [
        str(path),
        f"--port={port}",
        "--token",
        "--show_tracebacks=True",
        *([] if browser else ["--no-browser"]),
    ]
