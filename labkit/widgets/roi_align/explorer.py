"""RoIAlign beside RoIWarp and RoIPool on one box: the headless function of the explorer.

One figure: above, the feature map with the region that each operator uses; in the middle, the
outputs; below, one bin enlarged, with the value and the weight of each of its cells, and the sum
written out. The numbers come from ``operator_samples.sample_operators``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from labkit.widgets.roi_align.figure import draw_operators, format_cell
from labkit.widgets.roi_align.operator_samples import OperatorSamples, Sample, sample_operators

WRITTEN_OUT = 4
"""Number of sampling points whose sums are written out; with 2 × 2, all of them."""


def draw_roi_align(
    features: Tensor,
    box: Sequence[float],
    *,
    image: Tensor | None = None,
    bins: int = 4,
    samples: int = 2,
    selected: tuple[int, int] = (0, 0),
) -> Figure:
    """Draw what RoIPool, RoIWarp and RoIAlign compute for a box.

    Args:
        features: one channel ``(H, W)``.
        box: ``(x1, y1, x2, y2)`` in cells of the map; pixels divided by the stride.
        image: ``(3, h, w)`` uint8, the image that the map belongs to.
        bins: the box is cut into bins × bins.
        samples: samples × samples are averaged in a bin.
        selected: (row, column) of the bin that is shown up close, from 0.

    Returns:
        A figure whose axes are labelled "image", and for each operator "NAME map", "NAME output"
        and "NAME bin".

    Raises:
        LabkitError: an argument of the wrong shape or range.
    """
    readings = sample_operators(features, box, bins=bins, samples=samples, selected=selected)
    return figure_of(features, box, readings, image)


def figure_of(
    features: Tensor,
    box: Sequence[float],
    readings: Mapping[str, OperatorSamples],
    image: Tensor | None,
) -> Figure:
    """Draw the figure of :func:`draw_roi_align` from the operators' samples."""
    sums = [line for reading in readings.values() for line in _lines(reading)]
    return draw_operators(features, box, readings, sums, image)


def describe_operators(box: Sequence[float], readings: Mapping[str, OperatorSamples]) -> str:
    """Describe the figure in words: the box, the bin, its three values and their computation."""
    lines = [headline(box, readings)]
    for name, reading in readings.items():
        lines.append(f"{name} reads {_span(reading.region)}.")
        lines += [f"Point {i}{s}" for i, s in enumerate(map(_sum, reading.samples), start=1)]
        lines.append(_result(reading))
    return "\n".join(lines)


def headline(box: Sequence[float], readings: Mapping[str, OperatorSamples]) -> str:
    """Summarise in one line the box, the selected bin and its three values."""
    row, column = readings["RoIAlign"].selected
    values = ", ".join(f"{name} {format_cell(r.value)}" for name, r in readings.items())
    return f"Box {_span(box)}. Bin in row {row + 1}, column {column + 1}: {values}."


def _lines(reading: OperatorSamples) -> list[str]:
    """Lines with the arithmetic of a bin, two points a line."""
    sums = [
        f"point {i}{s}" for i, s in enumerate(map(_sum, reading.samples[:WRITTEN_OUT]), start=1)
    ]
    lines = ["   ".join(f"{s:<68}" for s in sums[i : i + 2]).rstrip() for i in (0, 2)]
    more = len(reading.samples) - len(sums)
    result = _result(reading) + (f" ({more} of them are not written out here.)" if more else "")
    lines = [*filter(None, lines), result]
    return [f"{reading.operator if i == 0 else '':<10}{line}" for i, line in enumerate(lines)]


def _sum(sample: Sample) -> str:
    """Interpolation at one point, written out."""
    terms = " + ".join(f"{tap.weight:.2f}·{format_cell(tap.value)}" for tap in sample.taps)
    value = terms or "off the map"
    return f" at ({sample.x:.2f}, {sample.y:.2f}): {value} = {format_cell(sample.value)}"


def _result(reading: OperatorSamples) -> str:
    if reading.samples:
        return f"Mean of all {len(reading.samples)} points: {format_cell(reading.value)}."
    x1, y1, x2, y2 = reading.bin
    cells = round((x2 - x1) * (y2 - y1))
    return f"Largest of {cells} cells: {format_cell(reading.value)}." if cells else "No cell: 0."


def _span(box: Sequence[float]) -> str:
    x1, y1, x2, y2 = box
    return f"x {x1:.2f} to {x2:.2f}, y {y1:.2f} to {y2:.2f}"
