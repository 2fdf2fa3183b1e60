"""Timing of labkit against another library in one run, and printing the results."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labkit.system import optional_packages


@dataclass(frozen=True)
class PeerComparison:
    """Times of one task in labkit and in another library.

    Attributes:
        task: what was timed.
        peer: the other implementation.
        ours_ms: labkit's median time in milliseconds per item.
        peer_ms: the peer's.
        ratio: median over the rounds of peer / labkit; above 1 labkit is quicker.
        target: the ratio to reach; None where none is set.
        ours_result: labkit's answer, to see that both did the same work.
        peer_result: the peer's.
    """

    task: str
    peer: str
    ours_ms: float
    peer_ms: float
    ratio: float
    target: float | None
    ours_result: float
    peer_result: float

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def compare_with_peer(
    task: str,
    peer_name: str,
    ours: Callable[[], tuple[float, float]],
    peer: Callable[[], tuple[float, float]],
    items: int,
    target: float | None,
    repeats: int,
) -> PeerComparison:
    """Run both in alternation, ``repeats`` times.

    A round's two runs are next to each other in time, so that a machine that slows down or is
    shared for a while slows both; the order changes from round to round.

    Args:
        task: what is timed.
        peer_name: the other implementation.
        ours: does the task with labkit, returns (seconds, result).
        peer: the same with the peer.
        items: how many items one run handles.
        target: the ratio to reach; None where none is set.
        repeats: rounds.
    """
    ours_times, peer_times = [], []
    for round_number in range(repeats):
        if round_number % 2:
            peer_time, peer_result = peer()
            ours_time, ours_result = ours()
        else:
            ours_time, ours_result = ours()
            peer_time, peer_result = peer()
        ours_times.append(ours_time)
        peer_times.append(peer_time)
    return PeerComparison(
        task,
        peer_name,
        ours_ms=1000 * statistics.median(ours_times) / items,
        peer_ms=1000 * statistics.median(peer_times) / items,
        ratio=statistics.median(p / o for o, p in zip(ours_times, peer_times, strict=True)),
        target=target,
        ours_result=ours_result,
        peer_result=peer_result,
    )


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a call, and its result."""
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def print_left_out(reason: str) -> None:
    """Say, beside the results, why another library is not measured."""
    Console(stderr=True).print(f"[yellow]left out:[/] {escape(reason)}")


def print_comparisons(title: str, result: str, comparisons: Sequence[PeerComparison]) -> None:
    """Print a table of at most 80 columns; ``result`` names the value that both computed."""
    peers = {c.peer for c in comparisons}
    table = Table(title=f"{title}, against {peers.pop()}" if len(peers) == 1 else title)
    table.add_column("task")
    for column in ("labkit\nms", "peer\nms", "ratio", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    for who in ("labkit", "peer"):
        table.add_column(f"{who}\n{result}", justify="right", no_wrap=True)
    for c in comparisons:
        verdict = "[green]met[/]" if c.met else "[red]missed[/]"
        table.add_row(
            f"{c.task}, against {c.peer}" if peers else c.task,
            _milliseconds(c.ours_ms),
            _milliseconds(c.peer_ms),
            f"{c.ratio:.3g}x",
            "-" if c.target is None else f"{c.target:g}x\n{verdict}",
            f"{c.ours_result:.4f}",
            f"{c.peer_result:.4f}",
        )
    Console().print(table)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def problem(package: str) -> str | None:
    """Return why a package cannot be used and the command that helps, or None."""
    if package in optional_packages.PACKAGES:
        return optional_packages.problem(package)
    if importlib.util.find_spec(package) is not None:
        return None
    return f"{package} is not installed; run: pip install {package}"
