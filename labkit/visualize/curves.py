"""Curves of a training: losses, and metrics on the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labkit.colors import distinct_colors, to_matplotlib


def loss_curves(runs: Mapping[str, Sequence[float]], smooth: int = 20) -> Figure:
    """Plot losses against steps: each value faint, the mean of the last ``smooth`` steps strong.

    Args:
        runs: one value per step for each named curve.
        smooth: steps in the running mean.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    _draw_losses(axes, runs, smooth, first=0)
    if runs:
        axes.legend(frameon=False)
    return figure


def training_curves(
    losses: Mapping[str, Sequence[float]], validation: Mapping[str, Mapping[int, float]]
) -> Figure:
    """Plot a training's losses and, below them, its validation metrics.

    Args:
        losses: one value per step for each named loss.
        validation: name of a metric to its value in 0..1 after a number of steps.
    """
    figure = Figure(figsize=(8, 4.2 + 2.2 * bool(validation)), layout="constrained")
    steps = len(next(iter(losses.values()), ()))
    smooth = min(20, 1 + steps // 10)  # so that a short run, too, has more than one smoothed point
    if not validation:
        axes = figure.subplots()
        _draw_losses(axes, losses, smooth, first=1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return figure
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    _draw_losses(above, losses, smooth, first=1)
    figure.legend(*above.get_legend_handles_labels(), loc="outside right upper")
    above.set_xlabel("")
    for name, values in validation.items():
        below.plot(list(values), [100 * value for value in values.values()], "o-", label=name)
    below.set_xlabel("step")
    below.set_ylabel(f"{', '.join(validation)} (%)")
    below.set_ylim(bottom=0)
    below.grid(alpha=0.3)
    return figure


def _draw_losses(axes: Axes, runs: Mapping[str, Sequence[float]], smooth: int, first: int) -> None:
    styles = ("-", "--", "-.", ":")  # curves differ in dash as well as in colour
    for i, (name, values) in enumerate(runs.items()):
        color = to_matplotlib(distinct_colors(len(runs))[i])
        steps = np.arange(first, first + len(values))
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        window = min(smooth, len(values))
        if window:
            mean = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(
                steps[window - 1 :], mean, styles[i % 4], color=color, linewidth=1.8, label=name
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
