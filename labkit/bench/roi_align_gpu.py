"""Share of a GPU's memory bandwidth that RoIAlign uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from labkit.bench.roi_align import Case, RoIAlignMeasurement
from labkit.errors import LabkitError

COPY_BYTES = 2**30


def require_gpu() -> None:
    """Check that there is a GPU.

    Raises:
        LabkitError: torch sees none.
    """
    if not torch.cuda.is_available():
        raise LabkitError(
            f"--device cuda needs a CUDA or ROCm GPU, and torch {torch.__version__} sees none; "
            "`labkit doctor` says what this machine has"
        )


def least_bytes(case: Case) -> int:
    """Smallest number of bytes that a float32 call must move: each array once.

    Forward the map is read and the bins are written; backward the bins' gradient is read and the
    map's is written. The boxes themselves are too few to count.
    """
    feature_map = case.channels * case.height * case.width
    bins = case.boxes * case.channels * case.bins**2
    return 4 * (feature_map + bins) * (2 if case.backward else 1)


def copy_bandwidth() -> float:
    """Measure the GPU's copy bandwidth in bytes per second, reads plus writes: the best of ten."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    best = float("inf")
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end) / 1000)
    return 2 * COPY_BYTES / best


def traffic(measurement: RoIAlignMeasurement, bandwidth: float) -> dict[str, Any]:
    """Bytes per second of labkit's call, counting :func:`least_bytes`; its share of a bandwidth.

    Args:
        measurement: a case timed on a GPU.
        bandwidth: bytes per second, of :func:`copy_bandwidth`.
    """
    size = least_bytes(measurement.case)
    rate = 1000 * size / measurement.comparison.ours_ms
    return {"least_bytes": size, "bytes_per_second": rate, "bandwidth_share": rate / bandwidth}


def print_traffic(measurements: Sequence[RoIAlignMeasurement], bandwidth: float) -> None:
    """Print the table of :func:`traffic`."""
    table = Table(title=f"Memory traffic of labkit; a copy moves {bandwidth / 1e9:.0f} GB/s")
    table.add_column("task", min_width=24)
    for column in ("labkit ms", "MB at the least", "GB/s", "share"):
        table.add_column(column, justify="right")
    for m in measurements:
        row = traffic(m, bandwidth)
        table.add_row(
            m.comparison.task,
            f"{m.comparison.ours_ms:.3f}",
            f"{row['least_bytes'] / 1e6:.1f}",
            f"{row['bytes_per_second'] / 1e9:.0f}",
            f"{row['bandwidth_share']:.0%}",
        )
    Console().print(table)
