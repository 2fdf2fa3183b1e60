"""Printing the tables of ``labkit bench gpu``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labkit.bench.gpu import PartResult
from labkit.bench.throughput import Throughput
from labkit.bench.throughput_report import print_throughput

COLUMNS = (
    ("loss off by", "loss_difference", "{:.1%}"),
    ("same pixels", "same_pixels", "{:.1%}"),
    ("scores off by", "score_difference", "{:.4f}"),
)


def print_report(outcomes: Sequence[PartResult], console: Console) -> None:
    """Print the results of the parts, the networks, throughput and RoIAlign."""
    parts = Table("part", "outcome", title="Parts")
    for column in ("s", "budget"):
        parts.add_column(column, justify="right")
    parts.add_column("last line", overflow="fold")
    for outcome in outcomes:
        row = (outcome.name, outcome.result, f"{outcome.seconds:.0f}", f"{outcome.budget:.0f}")
        parts.add_row(*row, escape(outcome.last))
    console.print(parts)
    networks = Table("network", "layers", title="Against the CPU in float32")
    for title, _, _ in COLUMNS:
        networks.add_column(title, justify="right")
    for outcome in outcomes:
        if outcome.figures and "float32" in outcome.figures:
            for precision, row in outcome.figures.items():
                networks.add_row(outcome.name, precision, *_cells(row))
    console.print(networks)
    for outcome in outcomes:
        if outcome.figures and "rows" in outcome.figures:
            print_throughput([Throughput(**row) for row in outcome.figures["rows"]], console)
    for outcome in outcomes:
        if outcome.figures and "comparisons" in outcome.figures:
            align = Table("task", title="RoIAlign")
            for column in ("labkit ms", "torchvision / labkit", "share of the bandwidth"):
                align.add_column(column, justify="right")
            for row in outcome.figures["comparisons"]:
                share = f"{row['bandwidth_share']:.0%}" if "bandwidth_share" in row else "–"
                align.add_row(row["task"], f"{row['ours_ms']:.3f}", f"{row['ratio']:.2f}", share)
            console.print(align)


def _cells(row: dict[str, Any]) -> list[str]:
    return ["–" if row[key] is None else form.format(row[key]) for _, key, form in COLUMNS]
