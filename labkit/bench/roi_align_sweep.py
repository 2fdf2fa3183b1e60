"""RoIAlign's speed relative to torchvision by box size, samples, channels and threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from rich.console import Console
from rich.table import Table

from labkit.bench.roi_align import FPN, Case, RoIAlignMeasurement, measure
from labkit.system.progress_bars import progress_bar

# A quarter of the headline case's map and boxes: as dense, in a quarter of the time.
BASE = replace(
    FPN, name="quarter of p2, 250 boxes, 7x7", height=100, width=152, boxes=250, sides=(64.0, 64.0)
)
MODES: dict[str, dict[str, Any]] = {
    "forward": {},
    "forward, channels-last": {"channels_last": True},
    "forward + backward": {"backward": True},
}
BOX_SIZE, RATIO, CHANNELS, THREADS = "box size, pixels", "sampling ratio", "channels", "threads"


@dataclass(frozen=True)
class SweepSetting:
    """A point of the sweep: the changed factor, and the resulting case."""

    factor: str
    value: int
    mode: str
    case: Case
    threads: int | None


@dataclass(frozen=True)
class Point:
    """Times of a setting."""

    setting: SweepSetting
    measurement: RoIAlignMeasurement

    def to_json(self) -> dict[str, Any]:
        where = {name: getattr(self.setting, name) for name in ("factor", "value", "mode")}
        return {**where, **self.measurement.to_json()}


def settings(base: Case, threads: int | None, cores: int) -> list[SweepSetting]:
    """List the settings: one changed factor at a time, each value in every mode.

    Args:
        base: the case.
        threads: where another factor is looked at; None on a GPU, which leaves threads out.
        cores: the most threads.
    """
    cases = [(BOX_SIZE, n, replace(base, sides=(n, n)), threads) for n in (16, 32, 64, 128, 256)]
    cases += [(RATIO, n, replace(base, ratio=n), threads) for n in (0, 1, 2, 4)]
    cases += [(CHANNELS, n, replace(base, channels=n), threads) for n in (16, 64, 256, 1024)]
    if threads is not None:
        cases += [(THREADS, 2**k, base, 2**k) for k in range(cores.bit_length())]
    return [
        SweepSetting(factor, value, mode, replace(case, **options), count)
        for factor, value, case, count in cases
        for mode, options in MODES.items()
    ]


def sweep(places: Sequence[SweepSetting], device: str, seconds: float = 0.5) -> list[Point]:
    """Time every setting, with a progress bar; ``seconds`` is for the rounds of one."""
    return [
        Point(place, measure(place.case, device, place.threads, seconds))
        for place in progress_bar(places, desc="sweep", unit="case")
    ]


def print_sweep(points: Sequence[Point]) -> None:
    """Print a table: a row for each value, labkit's time and its ratio for each mode."""
    table = Table(title=f"{BASE.name}: one factor at a time\nlabkit ms, ratio to torchvision")
    table.add_column("factor", no_wrap=True)
    table.add_column("value", justify="right")
    for mode in MODES:
        table.add_column(mode, justify="right")
    for factor in _factors(points):
        for value, row in _rows(points, factor).items():
            cells = (row.get(mode) for mode in MODES)
            texts = [f"{p.ours_ms:.2f}  {p.ratio:.1f}x" if p else "-" for p in cells]
            table.add_row(factor, _label(factor, value), *texts)
        table.add_section()
    Console().print(table)


def draw_sweep(points: Sequence[Point]) -> Figure:
    """Draw a panel for each factor: the ratio to torchvision against the factor's value."""
    factors = _factors(points)
    figure = Figure(figsize=(3.3 * len(factors), 3.6), layout="constrained")
    panels = figure.subplots(1, len(factors), sharey=True, squeeze=False)[0]
    for axes, factor in zip(panels, factors, strict=True):
        rows = _rows(points, factor)
        for mode, style in zip(MODES, ("o-", "s--", "^:"), strict=True):
            ratios = [row[mode].ratio if mode in row else float("nan") for row in rows.values()]
            axes.plot(range(len(rows)), ratios, style, label=mode)
        # The values double or quadruple, so even steps are a logarithmic axis, "adaptive" aside.
        axes.set_xticks(range(len(rows)), [_label(factor, value) for value in rows])
        axes.margins(x=0.1)
        axes.axhline(1, color="0.4", linewidth=1)
        axes.set_xlabel(factor)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("times as fast as torchvision")
    figure.suptitle(
        f"RoIAlign: {BASE.boxes} boxes of {BASE.sides[0]:g} pixels, ratio {BASE.ratio}, "
        f"{BASE.channels} channels; one factor at a time"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(MODES), frameon=False)
    return figure


def _factors(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.setting.factor for point in points))


def _rows(points: Sequence[Point], factor: str) -> dict[int, dict[str, Any]]:
    """Comparisons of each mode by value of a factor."""
    rows: dict[int, dict[str, Any]] = {}
    for point in points:
        if point.setting.factor == factor:
            row = rows.setdefault(point.setting.value, {})
            row[point.setting.mode] = point.measurement.comparison
    return rows


def _label(factor: str, value: int) -> str:
    return "adaptive" if factor == RATIO and value == 0 else str(value)
