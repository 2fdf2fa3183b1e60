"""``labkit zoo``: list and fetch trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion
from labkit.cli.options import DOWNLOAD_FOLDER

app = typer.Typer(help="List trained weights, and fetch published ones.", no_args_is_help=True)


@app.command("list")
def list_(folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None) -> None:
    """List labkit's own and published weights with their metrics."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from labkit.checkpoints.model_zoo import published_weights
    from labkit.checkpoints.shipped import shipped
    from labkit.system.paths import download_folder

    metrics = ("box AP", "mask AP", "PQ")
    own = Table("name", "data", *metrics, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for small in shipped().values():
        numbers = (str(small.metrics.get(metric, "")) for metric in metrics)
        own.add_row(small.name, small.data, *numbers)
    Console().print("with labkit, measured on val of the data that trained them:", own, sep="\n")
    typer.echo("published, measured on COCO val2017 by their publishers:")
    where = folder or download_folder()
    known = published_weights().values()
    table = Table(
        "name", "model", *metrics, "MB", "here", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0)
    )
    table.columns[0].no_wrap = True  # names are there to be copied
    for weights in known:
        table.add_row(
            weights.name,
            weights.preset,
            *(str(weights.metrics.get(metric, "")) for metric in metrics),
            str(weights.megabytes),
            "yes" if weights.path(where).is_file() else "",
        )
    Console().print(table)
    for weights in known:
        for what in weights.metrics.keys() - set(metrics):
            typer.echo(f"{weights.name}: {what} {weights.metrics[what]}")
    for licence in dict.fromkeys(weights.licence for weights in known):
        names = [weights.name for weights in known if weights.licence == licence]
        typer.echo(f"licence of {', '.join(names)}: {licence}")
    typer.echo(f"download folder: {where}")


@app.command()
def get(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of `labkit zoo list`.",
            metavar="NAME...",
            autocompletion=completion.published,
        ),
    ],
    folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None,
) -> None:
    """Fetch and verify published weights; run again to resume."""
    from labkit.checkpoints import model_zoo

    for checkpoint in [
        model_zoo.find(name) for name in names
    ]:  # a wrong name before a long download
        path = model_zoo.fetch_weights(checkpoint, folder, typer.echo)
        typer.echo(f"{checkpoint.name} is in {path}")
