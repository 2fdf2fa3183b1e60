"""``labkit pq``: panoptic quality of predictions in COCO panoptic format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.json_output import Json, write_numbers

if TYPE_CHECKING:
    from labkit.metrics.panoptic_matching import PanopticResult


def pq(
    gt: Annotated[Path, typer.Option(help="Ground truth: COCO panoptic JSON.")],
    pred: Annotated[Path, typer.Option(help="Predictions: COCO panoptic JSON.")],
    gt_dir: Annotated[
        Path | None, typer.Option(help="PNGs of the ground truth; default: GT without .json.")
    ] = None,
    pred_dir: Annotated[
        Path | None, typer.Option(help="PNGs of the predictions; default: PRED without .json.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: one per core.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also list every class.")] = False,
    json: Json = None,
) -> None:
    """Compute panoptic quality (PQ, SQ, RQ) of COCO panoptic files, as panopticapi does."""
    from labkit.metrics.panoptic_quality_files import evaluate_files

    result = evaluate_files(gt, pred, gt_dir, pred_dir, workers)
    if json is not None:
        write_numbers(json, to_json(result))
    print_result(result, per_class)


def print_result(result: PanopticResult, per_class: bool) -> None:
    """Print the All/Things/Stuff table in percent, and a row for each class that occurs."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("")
    for column in ("PQ", "SQ", "RQ", "N"):
        table.add_column(column, justify="right")
    for name in ("all", "things", "stuff"):
        mean = getattr(result, name)
        table.add_row(name.capitalize(), *map(percent, (mean.pq, mean.sq, mean.rq)), str(mean.n))
    Console().print(table)
    if not per_class:
        return
    classes = Table()
    classes.add_column("class")
    for column in ("PQ", "SQ", "RQ", "TP", "FP", "FN"):
        classes.add_column(column, justify="right")
    for c in result.per_class:
        if c.tp + c.fp + c.fn:
            numbers = map(percent, (c.pq, c.sq, c.rq))
            classes.add_row(c.name, *numbers, str(c.tp), str(c.fp), str(c.fn))
    Console().print(classes)


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def to_json(result: Any) -> Any:
    """Convert a dataclass of results to JSON values; nan becomes null."""
    from dataclasses import asdict

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return plain(asdict(result))
