"""Registration of all commands; each group has its own file."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli import (
    apps,
    assignment,
    bench,
    build,
    data,
    doctor,
    eval,
    export,
    export_detectron2,
    export_weights,
    grade,
    install,
    lab,
    notebooks,
    pq,
    predict,
    run,
    site,
    slides,
    train,
    zoo,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Inherited by every command.
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("lab")(lab.lab)
app.command("slides")(slides.slides)
app.command("site")(site.site)
app.add_typer(apps.app, name="app")
app.add_typer(notebooks.app, name="notebooks")
app.command("doctor")(doctor.doctor)
app.command("install")(install.install)
app.command("build")(build.build)
app.command("train")(train.train)
app.command("eval")(eval.evaluate)
app.command("export")(export.export)
app.command("export-detectron2")(export_detectron2.export_detectron2)
app.command("export-weights")(export_weights.export_weights)
app.command("predict")(predict.predict)
app.command("pq")(pq.pq)
app.add_typer(assignment.app, name="assignment")
app.command("grade")(grade.grade)
app.command("regrade")(grade.regrade)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")


def _version(wanted: bool) -> None:
    if wanted:
        import labkit

        typer.echo(f"labkit {labkit.__version__}")
        raise typer.Exit


@app.callback()
def labkit_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Learn instance and panoptic segmentation by building it."""
