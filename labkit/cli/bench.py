"""``labkit bench``: headline numbers, each a ratio against a peer measured in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure labkit against its peers.", no_args_is_help=True)

Json = Annotated[Path | None, typer.Option(help="Also write the numbers to this file.")]


@app.command("pq")
def pq(
    images: Annotated[int, typer.Option(min=1, help="Image pairs made for the file run.")] = 1000,
    json: Json = None,
) -> None:
    """Panoptic quality from files (panopticapi) and from tensors (torchmetrics)."""
    from rich.console import Console
    from rich.markup import escape

    from labkit.bench.pq import compare_files, compare_tensors
    from labkit.bench.report import print_comparisons
    from labkit.datasets.panoptic_format import write_json
    from labkit.errors import LabkitError

    comparisons = []
    for comparison in (lambda: compare_files(images), compare_tensors):
        try:
            comparisons.append(comparison())
        except LabkitError as error:  # one missing peer leaves the other comparison possible
            Console(stderr=True).print(f"[yellow]left out:[/] {escape(str(error))}")
    if json is not None:
        write_json(json, [c.to_json() for c in comparisons])
    print_comparisons("Panoptic quality, time per image", "PQ", comparisons)


@app.command("pq-memory")
def pq_memory(
    images: Annotated[int, typer.Option(min=1, help="Image pairs made for the run.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Processes of labkit pq.")] = 2,
    json: Json = None,
) -> None:
    """Peak memory of `labkit pq`, all its processes together (target: 600 MB with 2 workers)."""
    from labkit.bench.pq import MEMORY_TARGET_MB, peak_memory
    from labkit.datasets.panoptic_format import write_json

    peak = peak_memory(images, workers) / 1e6
    met = peak < MEMORY_TARGET_MB
    if json is not None:
        values = {"images": images, "workers": workers, "peak_mb": peak, "met": met}
        write_json(json, {**values, "target_mb": MEMORY_TARGET_MB})
    typer.echo(
        f"peak memory of labkit pq, {images} image pairs, {workers} workers: {peak:.0f} MB"
        f" (target below {MEMORY_TARGET_MB} MB: {'met' if met else 'missed'})"
    )
