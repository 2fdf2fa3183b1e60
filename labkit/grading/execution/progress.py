"""Progress of a grading: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from labkit.grading.states import State
from labkit.system.progress_bars import LiveBars

COLOURS: dict[str, str] = {State.OK: "green", State.CELL_ERROR: "yellow"}


def coloured(state: str) -> str:
    """Return a state in rich markup."""
    return f"[{COLOURS.get(state, 'red')}]{state}[/]"


class GradingProgress(LiveBars):
    """Shows the number of executed submissions, their states and the remaining time."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.states = Counter[str]()
        self.bars = Progress(
            TextColumn("running"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[states]}"),
            console=console,
            disable=not console.is_terminal or not total,
        )
        self.task = self.bars.add_task("", total=total, states="")

    def end(self, name: str, state: str) -> None:
        """Record that a submission has been run."""
        self.states[state] += 1
        if self.console.is_terminal:
            states = " · ".join(f"{coloured(s)} {n}" for s, n in self.states.most_common())
            self.bars.update(self.task, advance=1, states=states)
        else:
            text = f"{self.states.total()}/{self.total} {name}: {state}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
