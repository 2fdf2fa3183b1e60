"""``labkit assignment``: write assignments and release them to students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion

app = typer.Typer(help="Write assignments and release them to students.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="Name of the assignment, or path of its folder.",
        autocompletion=completion.assignments,
    ),
]


@app.callback()
def assignment() -> None:
    """Write assignments and release them to students."""


@app.command("list")
def list_() -> None:
    """List the assignments and their folder."""
    from labkit.workbook.notebook_sources import find_root

    for name in completion.assignments():
        typer.echo(name)
    typer.echo(f"in {find_root() / 'assignments'}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the new folder.")],
    folder: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Folder of the assignments.")
    ] = Path("assignments"),
) -> None:
    """Create a small working assignment to edit: DIR/NAME/source.py."""
    from labkit.grading.authoring.example import write_example

    source = write_example(folder / name)
    typer.echo(f"wrote {source}")
    where = name if folder == Path("assignments") else folder / name
    typer.echo(f"edit it, then: labkit assignment check {where}")


@app.command()
def release(
    name: Name,
    solution: Annotated[
        bool, typer.Option("--solution", help="Write the notebook with the solutions instead.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE_OR_DIR",
            help="Where to write the notebook.",
            show_default="the assignment's folder; with --solution, the working directory",
        ),
    ] = None,
) -> None:
    """Write the student notebook."""
    from labkit.grading.authoring.assignment import find_assignment, load_assignment
    from labkit.grading.authoring.release import require_not_edited, write_notebook

    loaded = load_assignment(find_assignment(name))
    notebook = loaded.solution if solution else loaded.notebook
    file_name = f"{loaded.name}{'-solution' if solution else ''}.ipynb"
    # A solution beside the student notebook could be published with it by mistake.
    target = out or (Path() if solution else loaded.folder)
    path = target / file_name if target.is_dir() or target.suffix != ".ipynb" else target
    require_not_edited(path, notebook)
    write_notebook(notebook, path)
    typer.echo(f"wrote {path}")


@app.command()
def check(name: Name) -> None:
    """Check that the solution earns all points and the untouched notebook none.

    Also checks that the student notebook contains no line of a solution or a
    probe and is up to date with the source, that the hidden inputs depend on
    the seed alone, and that every mistake of a probe loses points and gets its
    hint. Exits with status 1 if a check fails.
    """
    from rich.console import Console
    from rich.markup import escape

    from labkit.grading.authoring.assignment import find_assignment, load_assignment
    from labkit.grading.authoring.validate import validate_assignment

    console = Console(highlight=False)
    loaded = load_assignment(find_assignment(name))
    title = f"[bold]{escape(loaded.assignment.title)}[/], {loaded.assignment.points:g} points"
    console.print(f"{title}, {loaded.assignment.minutes:g} minutes")
    failed = False
    with console.status("checking and running the notebooks"):
        for result in validate_assignment(loaded):
            failed |= not result.passed
            mark = "[green]✓[/]" if result.passed else "[bold red]✗[/]"
            console.print(f"{mark} {escape(result.text)}", soft_wrap=True)
            for detail in result.details:
                console.print(f"    {escape(detail)}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
