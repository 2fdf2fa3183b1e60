"""Live progress of a run of notebooks: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from labkit.system.progress_bars import LiveBars
from labkit.workbook.notebook_processes import Job
from labkit.workbook.notebook_results import NotebookResult
from labkit.workbook.outcome import Outcome

COLOURS = {
    Outcome.OK: "green",
    Outcome.NOT_RUN: "dim",
    Outcome.INTERRUPTED: "yellow",
    Outcome.TIMEOUT: "yellow",
}


def outcome_markup(outcome: Outcome) -> str:
    """Return the outcome in rich markup."""
    return f"[{COLOURS.get(outcome, 'red')}]{outcome.value}[/]"


class RunProgress(LiveBars):
    """Progress display: for each notebook the cells, the time, and at the end the outcome.

    Args:
        notebooks: number of notebooks.
    """

    def __init__(self, console: Console, notebooks: int) -> None:
        self.console = console
        self.notebooks, self.ended = notebooks, 0
        self.tasks: dict[str, TaskID] = {}
        self.bars = Progress(
            TextColumn("{task.fields[name]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>3.0f}/{task.fields[cells]:<3} cells"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[outcome]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def start(self, job: Job) -> None:
        """Show that a notebook's process was started."""
        if self.console.is_terminal:
            self.tasks[job.name] = self.bars.add_task(
                job.name, total=None, name=job.name, cells="?", outcome="starting"
            )
        else:
            self._line(f"{job.name}: started")

    def cell(self, job: Job) -> None:
        """Show that a cell was started or finished."""
        if self.console.is_terminal:
            total = len(job.trace.planned)
            self.bars.update(
                self.tasks[job.name],
                completed=job.trace.done,
                total=total,
                cells=total,
                outcome="running",
            )

    def end(self, result: NotebookResult) -> None:
        """Show the outcome of a notebook."""
        self.ended += 1
        if self.console.is_terminal:
            task = self.tasks[result.name]
            self.bars.update(task, outcome=outcome_markup(result.outcome))
            self.bars.stop_task(task)
        else:
            self._line(
                f"{result.name}: {result.outcome.value} after {result.seconds:.1f} s, "
                f"{result.cells_run} of {result.cells} cells "
                f"({self.ended} of {self.notebooks} notebooks done)"
            )

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
