"""``labkit slides``: a lesson as slides for a lecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion


def slides(
    notebook: Annotated[
        str,
        typer.Argument(
            help="Number, name or path of the lesson.", autocompletion=completion.notebooks
        ),
    ],
    report: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Report of `labkit run` with the executed lesson.",
            show_default="the last report in runs/",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="NAME.slides.html"),
    ] = None,
) -> None:
    """Write the slides of an executed lesson: one file that needs no network."""
    from labkit.errors import LabkitError
    from labkit.system.atomic_write import atomic_write
    from labkit.system.paths import runs_folder
    from labkit.workbook.notebook_sources import find_root, load_notebook, resolve
    from labkit.workbook.slides import slides_html

    root = find_root()
    lesson = resolve(notebook, root)
    folder = report or runs_folder(root) / "latest"
    executed = folder / f"{lesson.stem}.ipynb"
    if not executed.is_file():
        raise LabkitError(
            f"{executed}: no such file; the slides show what the lesson computed, so run it first:"
            f" labkit run {lesson.stem} (or name its report with --from)"
        )
    page = slides_html(load_notebook(executed), lesson.stem, root / "notebooks")
    target = out or Path(f"{lesson.stem}.slides.html")
    with atomic_write(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    typer.echo(f"wrote {target}; open it in a browser; the key S opens the speaker's notes")
