"""The ``labkit`` command: one file per group of commands, loaded here."""

from __future__ import annotations

import sys
import warnings

import typer
from rich.console import Console
from rich.markup import escape

from labkit.cli import (
    apps,
    assignment,
    bench,
    build,
    data,
    doctor,
    eval,
    export_detectron2,
    grade,
    install,
    lab,
    notebooks,
    pq,
    predict,
    run,
    train,
    zoo,
)
from labkit.errors import LabkitError

app = typer.Typer(
    help="Learn instance and panoptic segmentation by building it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("run")(run.run)
app.command("lab")(lab.lab)
app.add_typer(apps.app, name="app")
app.add_typer(notebooks.app, name="notebooks")
app.command("doctor")(doctor.doctor)
app.command("install")(install.install)
app.command("build")(build.build)
app.command("train")(train.train)
app.command("eval")(eval.evaluate)
app.command("export-detectron2")(export_detectron2.export_detectron2)
app.command("predict")(predict.predict)
app.command("pq")(pq.pq)
app.add_typer(assignment.app, name="assignment")
app.command("grade")(grade.grade)
app.command("regrade")(grade.regrade)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")


def main() -> None:
    """Run the command line; a user's mistake prints one message and exits with status 1."""
    # What a warning says is for the user; the line of code that it comes from is not.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except LabkitError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
