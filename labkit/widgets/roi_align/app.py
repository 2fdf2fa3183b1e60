"""App of the RoIAlign explorer: move a box, click a bin, and see how its value is computed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ipywidgets
import numpy as np
from matplotlib import colormaps
from torch import Tensor

from labkit.widgets.app import App, data_address, png
from labkit.widgets.interactive_figure import Box, InteractiveFigure, data_box, pixel_box, place
from labkit.widgets.offline_page import offline_piece
from labkit.widgets.roi_align.explorer import describe_operators, figure_of, headline
from labkit.widgets.roi_align.operator_samples import (
    MOST_BINS,
    MOST_SAMPLES,
    OperatorSamples,
    sample_operators,
)

STEP = 0.25
"""Distance in cells by which an arrow key moves the box."""

HELP = (
    "Mouse: drag the box or a corner of it, or draw another one; click on a bin. "
    "Keys, with the picture focused: arrows move the box by a quarter of a cell, "
    "Shift and arrows resize it; the menu above chooses the bin."
)


@dataclass(frozen=True)
class _State:
    box: Box
    bins: int
    samples: int
    selected: tuple[int, int]


class RoIAlignExplorer(App):
    """Explorer of RoIAlign, around ``explorer.draw_roi_align``; its arguments are the same.

    Raises:
        LabkitError: an argument of the wrong shape or range.
    """

    def __init__(
        self,
        features: Tensor,
        box: Sequence[float],
        *,
        image: Tensor | None = None,
        bins: int = 4,
        samples: int = 2,
        selected: tuple[int, int] = (0, 0),
    ) -> None:
        readings = sample_operators(features, box, bins=bins, samples=samples, selected=selected)
        self._features, self._image = features, image
        x1, y1, x2, y2 = map(float, box)
        self._state = _State((x1, y1, x2, y2), bins, samples, selected)
        counts = [(f"{n} × {n}", n) for n in range(1, MOST_BINS + 1)]
        self._menus = {
            "bins": ipywidgets.Dropdown(description="Bins", options=counts, value=bins),
            "samples": ipywidgets.Dropdown(
                description="Samples", options=counts[:MOST_SAMPLES], value=samples
            ),
            "selected": ipywidgets.Dropdown(
                description="Shown bin", options=_places(bins), value=selected
            ),
        }
        self._following = False  # the menus follow the state, and are not asked
        self._canvas = InteractiveFigure(
            "Feature map with a movable box",
            HELP,
            on_click=self.guarded(self._click),
            on_box=self.guarded(self._drop),
            on_move=self.guarded(self._move),
        )
        super().__init__("roi-align", [ipywidgets.HBox(list(self._menus.values())), self._canvas])
        self._show(readings)
        for name, menu in self._menus.items():
            menu.observe(self.guarded(functools.partial(self._choose, name)), "value")

    def still(self) -> tuple[bytes, str]:
        """Current picture and its text alternative."""
        return self._canvas.picture, self._canvas.description

    def offline(self) -> str:
        height, width = self._features.shape
        cells = self._features.detach().cpu().double().numpy()
        image = None
        if self._image is not None:
            image = data_address(png(self._image.permute(1, 2, 0).numpy(force=True)))
        state = {
            "map": {"height": height, "width": width, "cells": cells.tobytes()},
            "shades": (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().tolist(),
            "picture": image,
            "shown": asdict(self._state),
        }
        scripts = ["make_element.js", "offline_svg.js", "roi_align/offline.js"]
        return offline_piece(state, scripts, ["offline.css"])

    def _choose(self, name: str, change: dict[str, Any]) -> None:
        if not self._following:
            self._set(**{name: change["new"]})

    def _click(self, x: float, y: float) -> None:
        at = place(self._figure, x, y)
        bins = self._state.bins
        if at is not None and at.axes in self._grids:
            column, row = at.x + 0.5, at.y + 0.5
        elif at is not None and at.axes in self._regions:
            x1, y1, x2, y2 = self._regions[at.axes]
            column, row = (at.x - x1) / (x2 - x1) * bins, (at.y - y1) / (y2 - y1) * bins
        else:
            self._say("Click on a bin: inside a box, or in one of the grids below the maps.")
            return
        if not (0 <= column < bins and 0 <= row < bins):
            self._say("Click inside the box to choose a bin, or drag to draw another box.")
            return
        self._set(selected=(int(row), int(column)))

    def _drop(self, area: int, box: Box) -> None:
        x1, y1, x2, y2 = data_box(self._maps[area], box)
        self._set(box=self._on_map(x1, y1, x2 - x1, y2 - y1))

    def _move(self, dx: int, dy: int, resize: bool) -> None:
        x1, y1, x2, y2 = self._state.box
        width, height = x2 - x1, y2 - y1
        if resize:
            # Against the map's edge a box stops growing instead of moving away from it.
            rows, columns = self._features.shape
            width = min(width + dx * STEP, columns - x1)
            height = min(height + dy * STEP, rows - y1)
        else:
            x1, y1 = x1 + dx * STEP, y1 + dy * STEP
        self._set(box=self._on_map(x1, y1, width, height))

    def _on_map(self, x: float, y: float, width: float, height: float) -> Box:
        """Move a box onto the map; its sides are at least one step long."""
        rows, columns = self._features.shape
        width, height = min(max(width, STEP), columns), min(max(height, STEP), rows)
        x, y = min(max(x, 0), columns - width), min(max(y, 0), rows - height)
        return (round(x, 2), round(y, 2), round(x + width, 2), round(y + height, 2))

    def _set(self, **changes: Any) -> None:
        state = replace(self._state, **changes)
        last = state.bins - 1
        row, column = state.selected
        state = replace(state, selected=(min(row, last), min(column, last)))
        readings = sample_operators(
            self._features,
            state.box,
            bins=state.bins,
            samples=state.samples,
            selected=state.selected,
        )
        self._state = state
        self._following = True
        try:
            if len(self._menus["selected"].options) != state.bins**2:
                self._menus["selected"].options = _places(state.bins)
            self._menus["selected"].value = state.selected
        finally:
            self._following = False
        self._show(readings)

    def _show(self, readings: dict[str, OperatorSamples]) -> None:
        box = self._state.box
        figure = figure_of(self._features, box, readings, self._image)
        data = png(figure)
        by_name = {axes.get_label(): axes for axes in figure.axes}
        self._regions = {f"{name} map": reading.region for name, reading in readings.items()}
        if self._image is not None:
            self._regions = {"image": box, **self._regions}
        self._grids = {f"{name} output" for name in readings}
        self._figure, self._maps = figure, [by_name[name] for name in self._regions]
        height, width = self._features.shape
        self._canvas.show(
            data,
            describe_operators(box, readings),
            [pixel_box(axes, (0, 0, width, height)) for axes in self._maps],
            [pixel_box(axes, box) for axes in self._maps],
        )
        self._say(headline(box, readings))

    def _say(self, text: str) -> None:
        self.status = text
        self.ready()


def _places(bins: int) -> list[tuple[str, tuple[int, int]]]:
    return [(f"row {r + 1}, column {c + 1}", (r, c)) for r in range(bins) for c in range(bins)]
