"""``labkit notebooks``."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The workbook's notebooks and their sources.", no_args_is_help=True)


@app.callback()
def notebooks() -> None:
    """The workbook's notebooks and their sources."""


@app.command("list")
def list_() -> None:
    """List the lessons, and where they are."""
    from labkit.workbook.notebook_sources import find_root, sources

    root = find_root()
    for source in sources(root):
        typer.echo(source.stem)
    typer.echo(f"in {root / 'notebooks'}")


@app.command()
def sync(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list what differs and exit with 1.")
    ] = False,
) -> None:
    """Generate notebooks/*.ipynb from notebooks/src/*.py, overwriting changes made in them."""
    from labkit.errors import LabkitError
    from labkit.system.paths import CARRIED
    from labkit.workbook import notebook_sources as workbook

    root = workbook.find_root()
    if root == CARRIED:
        raise LabkitError(
            "an installed labkit's notebooks are not edited where they are; run this inside a"
            " checkout, or inside a copy of the notebooks that `labkit lab` made"
        )
    if check:
        differing = workbook.differing(root)
        for path, reason in differing.items():
            typer.echo(f"{path.relative_to(root)} {reason}")
        if differing:
            typer.echo("run: labkit notebooks sync")
            raise typer.Exit(1)
        typer.echo("the notebooks are what their sources generate")
        return
    for path in workbook.sync(root):
        typer.echo(f"wrote {path.relative_to(root)}")
    for path, reason in workbook.differing(root).items():
        typer.echo(f"left alone: {path.relative_to(root)} {reason}")
