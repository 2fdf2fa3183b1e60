"""``labkit install``: optional packages that package indexes lack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def install(
    package: Annotated[str, typer.Argument(help="detectron2 or panopticapi.")],
    source: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Install from this checkout.", show_default="GitHub"),
    ] = None,
) -> None:
    """Install an optional package that is not on the package index."""
    from labkit.system import optional_packages

    optional_packages.install(package, source, show=typer.echo)
    typer.echo(f"{package} is installed and can be imported")
