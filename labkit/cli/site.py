"""``labkit site``: the course as a web site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def site(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the site; an earlier site in it is replaced."),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Report of `labkit run` with the executed lessons.",
            show_default="the last report in runs/",
        ),
    ] = None,
    repository: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Address of this repository on GitHub, for links to files and for the buttons"
            " that open a lesson in Colab and Binder.",
            show_default="no such links",
        ),
    ] = "",
) -> None:
    """Build the course as a web site that needs no network."""
    from labkit.site.build_site import build_site
    from labkit.system.paths import runs_folder
    from labkit.workbook.notebook_sources import find_root

    root = find_root()
    built = build_site(root, run or runs_folder(root) / "latest", out, repository)
    for warning in built.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if built.not_executed:
        names = ", ".join(built.not_executed)
        typer.echo(f"not in the run, shown without figures: {names}")
    index = built.folder / "index.html"
    typer.echo(f"wrote {built.pages} pages, {built.size / 1e6:.0f} MB; open {index} in a browser")
