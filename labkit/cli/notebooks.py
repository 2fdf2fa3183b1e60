"""``labkit notebooks``: list and copy the lessons, generate them from their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, copy or generate the lessons.", no_args_is_help=True)


@app.callback()
def notebooks() -> None:
    """List, copy or generate the lessons."""


@app.command("list")
def list_() -> None:
    """List the lessons and their folder."""
    from labkit.workbook.notebook_sources import find_root, sources

    root = find_root()
    for source in sources(root):
        typer.echo(source.stem)
    typer.echo(f"in {root / 'notebooks'}")


@app.command()
def copy(
    folder: Annotated[Path, typer.Argument(help="Folder of the copy; existing files are kept.")],
) -> None:
    """Copy the workbook for a student: lessons with open exercises, assignments, start page."""
    from labkit.workbook.copy_workbook import copy_workbook
    from labkit.workbook.notebook_sources import find_root

    typer.echo(f"the copy is in {copy_workbook(find_root(), folder)}")


@app.command()
def sync(
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; list differences and exit with status 1."),
    ] = False,
) -> None:
    """Generate notebooks/*.ipynb from notebooks/src/*.py, overwriting changes in them."""
    from labkit.errors import LabkitError
    from labkit.system.paths import CARRIED
    from labkit.workbook import notebook_sources as workbook

    root = workbook.find_root()
    if root == CARRIED:
        raise LabkitError(
            "the notebooks of an installed labkit cannot be edited; run this inside a checkout, or"
            " inside a copy of the notebooks that `labkit lab` made"
        )
    if check:
        differing = workbook.differing(root)
        for path, reason in differing.items():
            typer.echo(f"{path.relative_to(root)} {reason}")
        if differing:
            typer.echo("run: labkit notebooks sync")
            raise typer.Exit(1)
        typer.echo("the notebooks are up to date with their sources")
        return
    for path in workbook.sync(root):
        typer.echo(f"wrote {path.relative_to(root)}")
    for path, reason in workbook.differing(root).items():
        typer.echo(f"unchanged: {path.relative_to(root)} {reason}")
