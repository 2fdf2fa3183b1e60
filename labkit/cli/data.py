"""``labkit data``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import DOWNLOAD_FOLDER

app = typer.Typer(help="Data sets: write the built-in one, fetch others.", no_args_is_help=True)


class BuiltIn(StrEnum):
    """The data sets that need no download."""

    shapes = "shapes"


class Split(StrEnum):
    train = "train"
    val = "val"
    test = "test"


@app.command()
def export(
    dataset: Annotated[BuiltIn, typer.Argument(help="The built-in data set.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    num: Annotated[int, typer.Option(help="How many images.")] = 500,
    split: Annotated[Split, typer.Option(help="Which part of the data set.")] = Split.val,
    crowded: Annotated[bool, typer.Option("--crowded", help="The harder variant.")] = False,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed is another data set.")] = 0,
) -> None:
    """Write a data set in COCO's instance and panoptic formats."""
    from labkit.datasets.export import export as write
    from labkit.datasets.shapes import Shapes

    write(Shapes(split.value, num, size, crowded, seed), out, split=split.value)
    typer.echo(f"wrote {num} images to {out}")


@app.command("list")
def list_(folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None) -> None:
    """List the data sets that can be fetched, and which of them are here."""
    from rich.console import Console
    from rich.table import Table

    from labkit.datasets.download import catalogue, download_folder, is_here

    where = folder or download_folder()
    table = Table("name", "what", "MB", "licence", "here")
    for dataset in catalogue().values():
        size = "" if dataset.size is None else f"{dataset.size / 1e6:,.0f}"
        here = "yes" if is_here(dataset, where) else ""
        table.add_row(dataset.name, dataset.title, size, dataset.licence, here)
    Console().print(table)
    typer.echo(f"download folder: {where}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name that `labkit data list` shows.")],
    folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None,
) -> None:
    """Fetch a data set: resumes, verifies, unpacks."""
    from labkit.datasets import download
    from labkit.errors import LabkitError

    known = download.catalogue()
    if name not in known:
        raise LabkitError(f"no data set {name!r}; there are {', '.join(known)}")
    home = download.get(known[name], folder or download.download_folder(), typer.echo)
    typer.echo(f"{name} is in {home}")
