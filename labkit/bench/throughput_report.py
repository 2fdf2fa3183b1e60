"""Table and figure of ``labkit bench throughput``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labkit.bench.throughput import TASKS, Throughput
from labkit.colors import PETROFF_10


def print_throughput(rows: Sequence[Throughput], console: Console) -> None:
    """Print a table of at most 80 columns, with a heading for each model and task."""
    table = Table(
        title="Throughput",
        caption="ms: the fastest and the slowest call; first: the first one, not counted;\n"
        "result: detections, mean logit or loss, equal where both do the same",
        box=SIMPLE,
    )
    table.add_column("", ratio=1)
    for column in ("images/s", "ms", "first ms", "GPU MB", "result"):
        table.add_column(column, justify="right", no_wrap=True)
    heading = None
    for row in rows:
        span = f", {row.span}" if row.task == "inference" else ""
        if heading != (heading := f"{row.model}: {row.task}{span}"):
            table.add_section()
            table.add_row(f"[bold]{escape(heading)}")
        table.add_row(
            _label(row),
            f"{row.images_per_second:.3g}",
            f"{row.milliseconds[0]:.0f}-{row.milliseconds[-1]:.0f}",
            f"{row.first_ms:.0f}",
            "–" if row.peak_mb is None else f"{row.peak_mb:.0f}",
            f"{row.result:.4g}",
        )
    console.print(table)


def draw_throughput(rows: Sequence[Throughput]) -> Figure:
    """Bars of images a second: a panel for each task, a colour for each library."""
    libraries = list(dict.fromkeys(row.library for row in rows))
    colors = dict(zip(libraries, PETROFF_10, strict=False))
    most = max(sum(row.task == task for row in rows) for task in TASKS)
    figure = Figure(figsize=(11, 1.2 + 0.36 * most), layout="constrained")
    panels = figure.subplots(1, len(TASKS), squeeze=False)[0]
    for axes, task in zip(panels, TASKS, strict=True):
        shown = [row for row in rows if row.task == task][::-1]
        bars = axes.barh(
            range(len(shown)),
            [row.images_per_second for row in shown],
            color=[[c / 255 for c in colors[row.library]] for row in shown],
        )
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
        labels = [f"{row.model}\n{_label(row)}" for row in shown]
        axes.set_yticks(range(len(shown)), labels, fontsize=8)
        axes.set_title(f"{task}, images a second", fontsize=9)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _label(row: Throughput) -> str:
    compiled = ", compiled" if row.compiled else ""
    return f"{row.library}, {row.batch} × {row.precision}{compiled}"
