"""``labkit grade`` and ``labkit regrade``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli import completion
from labkit.errors import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from labkit.grading.scoring.finalize import GradingResult

ANONYMOUS = typer.Option(
    "--anonymous/--named",
    help="Pseudonyms in place of names in questions.html and questions.csv.",
    show_default="as before, at first with names",
)


def grade(
    submissions: Annotated[
        Path,
        typer.Argument(
            help="A folder of notebooks, of students' folders, or a zip file from Canvas or Moodle."
        ),
    ],
    assignment: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The assignment: its name or its folder.",
            autocompletion=completion.assignments,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for all results; an unfinished grading in it is resumed.",
            show_default="runs/grading/NAME",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Submissions at a time.", show_default="one for every core"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="A Dask cluster instead of this machine: tcp://HOST:PORT."
        ),
    ] = None,
    late_policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML: deadline, its cost, extensions, which submission counts."
        ),
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="A weaker sandbox where the machine offers no better one.",
            show_default="the strongest",
        ),
    ] = None,
    allow_unsandboxed: Annotated[
        bool, typer.Option("--allow-unsandboxed", help="Also without a sandbox: trusted code only.")
    ] = False,
    anonymous: Annotated[bool | None, ANONYMOUS] = None,
) -> None:
    """Run every submission in a sandbox, score it, and write gradebook, feedback and report.

    After any interruption, run the same command again to resume. Exits with status 1
    when a submission could not be graded through no fault of the student.
    """
    from rich.console import Console

    from labkit.grading.execution.batch import GradingRequest
    from labkit.grading.execution.batch import grade as grade_all

    console = Console()
    request = GradingRequest(
        submissions=submissions,
        assignment=assignment,
        out=out,
        workers=workers,
        scheduler=scheduler,
        late_policy=late_policy,
        isolation=isolation,
        allow_unsandboxed=allow_unsandboxed,
        anonymous=anonymous,
        command=shlex.join(["labkit", *sys.argv[1:]]),
    )
    try:
        conclusion = grade_all(request, console)
    except KeyboardInterrupt:
        console.print("stopped; run the same command again to resume", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    _print(conclusion, console)


def regrade(
    out: Annotated[Path, typer.Argument(help="The --out folder of labkit grade.")],
    assignment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the assignment is now.", show_default="as graded"),
    ] = None,
    late_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another late policy.", show_default="as graded"),
    ] = None,
    anonymous: Annotated[bool | None, ANONYMOUS] = None,
) -> None:
    """Score again without running anything.

    After a change of points, tolerances, references or the late policy, and after points were
    filled in to questions.csv.
    """
    from rich.console import Console

    from labkit.grading.execution.batch import regrade as regrade_all

    _print(regrade_all(out, assignment, late_policy, anonymous), Console())


def _print(conclusion: GradingResult, console: Console) -> None:
    import statistics
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    from labkit.grading.execution.progress import coloured
    from labkit.grading.reports.gradebook import number
    from labkit.grading.reports.instructor_report import review_notes

    entries = conclusion.entries
    states = Counter(entry.score.state if entry.score else "not graded" for entry in entries)
    table = Table(box=None, pad_edge=False)
    table.add_column("outcome")
    table.add_column("students", justify="right")
    for state, count in states.most_common():
        table.add_row(coloured(state), str(count))
    console.print(table)
    points = [entry.points for entry in entries if entry.points is not None]
    if points:
        out_of = next(entry.score.out_of for entry in entries if entry.score)
        mean, median = number(statistics.fmean(points)), number(statistics.median(points))
        text = f"points: mean {mean}, median {median} of {number(out_of)}"
        console.print(text, highlight=False)
    unread = sum(entry.score.unread for entry in entries if entry.score)
    if unread:
        console.print(f"{unread} answers to read: questions.html", highlight=False)
    look = sum(bool(review_notes(entry)) for entry in entries)
    if look:
        console.print(f"{look} submissions to check: report.html", highlight=False)
    for problem in conclusion.problems:
        console.print(f"[yellow]note:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    for entry in conclusion.failed:
        text = f"[red]not graded:[/] {escape(entry.student.shown)}: {escape(entry.problem)}"
        console.print(text, soft_wrap=True, highlight=False)
    for path in conclusion.files:
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
    if conclusion.failed:
        raise typer.Exit(1)
