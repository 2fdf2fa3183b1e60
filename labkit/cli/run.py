"""``labkit run``: notebooks without a browser, and a report."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion
from labkit.cli.options import DEVICE, PRECISION, kernel_options


class Profile(StrEnum):
    """Amount of work of the notebooks."""

    smoke = "smoke"
    quick = "quick"
    full = "full"


def run(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NOTEBOOK]...",
            help="Number, name or path; all notebooks when none is given.",
            autocompletion=completion.notebooks,
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="smoke: seconds; quick: minutes on a CPU (the notebooks' default); "
            "full: a GPU and real data.",
            show_default=False,
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter of the notebooks."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Notebooks to run at a time; they share the cores.",
            show_default="as many as cores",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="MINUTES", min=0.01, help="Time limit of each notebook.")
    ] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the report.", show_default="runs/TIME"),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="First fetch the photographs that the notebooks can use; sizes and licences are"
            " shown before.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --fetch: fetch without asking.")
    ] = False,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of each notebook.",
            show_default="the notebook's choice, within its share of the cores",
        ),
    ] = None,
    precision: Annotated[str | None, PRECISION] = None,
) -> None:
    """Run notebooks without a browser and write a report.

    Exits with status 1 if a notebook does not end with "ok".
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from labkit.workbook.parameters import parse_assignments
    from labkit.workbook.run_progress import outcome_markup
    from labkit.workbook.run_report import format_duration
    from labkit.workbook.run_workbook import RunRequest
    from labkit.workbook.run_workbook import run_workbook as run_notebooks

    if fetch:
        _fetch(notebooks or [], yes)
    console = Console()
    values = parse_assignments(parameter or [])
    report = run_notebooks(
        RunRequest(
            notebooks=notebooks or [],
            profile=profile.value if profile else None,
            parameters=values,
            jobs=jobs,
            timeout_minutes=timeout,
            out=out,
            environment=kernel_options(device, threads, precision),
            command=shlex.join(["labkit", *sys.argv[1:]]),
        ),
        console,
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("notebook", "outcome", "time", "cells", "claims"):
        table.add_column(heading, justify="left" if heading in {"notebook", "outcome"} else "right")
    for result in report.results:
        table.add_row(
            result.name,
            outcome_markup(result.outcome),
            format_duration(result.seconds),
            f"{result.cells_run}/{result.cells}",
            f"{result.claims_held}/{len(result.claims)}" if result.claims else "",
        )
    console.print(table)
    for result in report.results:
        if result.reason:
            text = f"[bold]{result.name}[/]: {escape(result.reason.splitlines()[0])}"
            console.print(text, soft_wrap=True, highlight=False)
    if report.claims:
        console.print(f"claims: {report.claims_held} of {report.claims} within range")
    index = report.folder / "index.html"
    console.print(f"report: {escape(str(index))}", soft_wrap=True, highlight=False)
    if not report.ok:
        raise typer.Exit(1)


def _fetch(notebooks: list[str], yes: bool) -> None:
    from labkit.errors import LabkitError
    from labkit.workbook.lesson_data import fetch_for_lessons
    from labkit.workbook.notebook_sources import find_root
    from labkit.workbook.run_workbook import chosen_notebooks

    def ask(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise LabkitError("--fetch asks before it downloads; add --yes where nobody answers")
        return typer.confirm(question, default=True)

    fetch_for_lessons(chosen_notebooks(notebooks, find_root()), ask, typer.echo)
