"""App of the anchor and NMS explorer: choose a cell and step through non-maximum suppression."""

from __future__ import annotations

from typing import Any

import ipywidgets
from torch import Tensor, nn

from labkit.widgets.anchors_nms.figure import draw_figure, nearest_box
from labkit.widgets.anchors_nms.pyramid_levels import rpn_levels
from labkit.widgets.anchors_nms.scene import MOST_BOXES, describe_scene, scene, sentences
from labkit.widgets.app import App, data_address, png
from labkit.widgets.interactive_figure import InteractiveFigure, place
from labkit.widgets.offline_page import offline_piece

HELP = (
    "Mouse: click on a cell in 1 or 2, on a box in 3 or on its row. Keys, with the picture "
    "focused: arrows choose the cell, Shift with left and right takes a step back or forth; "
    "the menu Box chooses a box."
)


class AnchorsNMS(App):
    """Explorer of anchors and NMS, around ``labkit.widgets.anchors_nms.explorer.draw_anchors_nms``.

    Args:
        model: a detector or panoptic network of labkit.
        image: ``(3, H, W)`` uint8, at the network's input size.
        options: the initial state; keyword arguments of ``draw_anchors_nms``.

    Raises:
        LabkitError: as ``draw_anchors_nms`` and ``rpn_levels``.
    """

    def __init__(self, model: nn.Module, image: Tensor, **options: Any) -> None:
        self._image, self._levels = image, rpn_levels(model, image)
        self._shown = shown = scene(self._levels, **options)
        names = [one.name for one in self._levels]
        self._menus = {
            "level": ipywidgets.Dropdown(
                description="Level", options=names, value=shown.level.name
            ),
            "ratio": ipywidgets.Dropdown(
                description="Anchors",
                options=_ratios(shown.level.ratios),
                value=shown.ratio or 0.0,
            ),
            "count": ipywidgets.IntSlider(
                continuous_update=False,
                description="Boxes",
                min=1,
                max=MOST_BOXES,
                value=options.get("count", 12),
            ),
            "threshold": ipywidgets.FloatSlider(
                continuous_update=False,
                description="NMS above",
                min=0,
                max=1,
                step=0.05,
                value=shown.threshold,
            ),
            "done": ipywidgets.IntSlider(
                continuous_update=False,
                description="Step",
                min=0,
                max=len(shown.steps),
                value=shown.done,
            ),
            "box": ipywidgets.Dropdown(
                description="Box", options=_boxes(len(shown.boxes)), value=shown.box or 0
            ),
        }
        self._buttons = {
            -1: ipywidgets.Button(description="Step back"),
            1: ipywidgets.Button(description="Next step", button_style="primary"),
        }
        self._following = False  # True while code, not the reader, changes the controls
        self._canvas = InteractiveFigure(
            "Anchors, proposals and suppression",
            HELP,
            on_click=self.guarded(self._click),
            on_move=self.guarded(self._move),
        )
        menus = self._menus
        rows = [
            ipywidgets.HBox([menus["level"], menus["ratio"], menus["box"]]),
            ipywidgets.HBox([menus["count"], menus["threshold"]]),
            ipywidgets.HBox([menus["done"], *self._buttons.values()]),
        ]
        super().__init__("anchors-nms", [*rows, self._canvas])
        self._follow()
        self._show()
        for name, menu in menus.items():
            menu.observe(
                self.guarded(lambda change, name=name: self._choose(name, change)), "value"
            )
        for way, button in self._buttons.items():
            button.on_click(self.guarded(lambda _, way=way: self._step(way)))

    def still(self) -> tuple[bytes, str]:
        """Current picture and its text alternative."""
        return self._canvas.picture, self._canvas.description

    def offline(self) -> str:
        shown, count = self._shown, self._menus["count"].value
        levels = [
            {
                "name": level.name,
                "shape": level.shape,
                "sizes": level.sizes,
                "ratios": level.ratios,
                "nms": level.nms,
                "best": level.best(MOST_BOXES).tolist(),
                **{
                    name: getattr(level, name).float().numpy().tobytes()
                    for name in ("anchors", "boxes", "scores")
                },
            }
            for level in self._levels
        ]
        image = self._image.permute(1, 2, 0).numpy(force=True)
        state = {
            "picture": data_address(png(image)),
            "size": image.shape[:2],
            "levels": levels,
            "shown": {
                "level": self._levels.index(shown.level),
                "ratio": shown.ratio,
                "cell": shown.cell,
                "count": count,
                "threshold": shown.threshold,
                "done": shown.done,
                "box": shown.box,
            },
        }
        scripts = ["make_element.js", "offline_svg.js", "anchors_nms/offline.js"]
        return offline_piece(state, scripts, ["offline.css"])

    def _choose(self, name: str, change: dict[str, Any]) -> None:
        if not self._following:
            new = change["new"]
            self._set(**{name: (new or None) if name in ("ratio", "box") else new})

    def _click(self, x: float, y: float) -> None:
        at, level = place(self._figure, x, y), self._shown.level
        if at is not None and at.axes in ("anchors", "moved"):
            self._set(cell=level.nearest_cell(at.x, at.y))
            return
        number = None
        if at is not None and at.axes == "table" and 1 <= at.y < len(self._shown.boxes) + 1:
            number = int(at.y)
        if at is not None and at.axes == "nms":
            number = nearest_box(self._shown, at.x, at.y)
        if number is None:
            self.ready()
        else:
            self._set(box=number)

    def _move(self, dx: int, dy: int, resize: bool) -> None:
        if resize:  # that is, with shift held
            self._step(dx)
            return
        (rows, columns), (row, column) = self._shown.level.shape, self._shown.cell
        row, column = min(max(row + dy, 0), rows - 1), min(max(column + dx, 0), columns - 1)
        self._set(cell=(row, column))

    def _step(self, way: int) -> None:
        self._set(done=self._shown.done + way)

    def _set(self, **changes: Any) -> None:
        before = self._shown
        wanted: dict[str, Any] = {
            "level": before.level.name,
            "ratio": before.ratio,
            "cell": before.cell,
            "count": self._menus["count"].value,
            "threshold": before.threshold,
            "done": before.done,
            "box": before.box,
            **changes,
        }
        if wanted["level"] != before.level.name:
            wanted.update(ratio=None, cell=None, done=1, box=None)
        elif wanted["box"] != before.box:
            wanted["cell"] = None  # that of the box's anchor
        # With other boxes or another threshold, limit step and box to those that exist.
        whole = scene(self._levels, **{**wanted, "done": 0, "box": None})
        wanted["done"] = min(max(wanted["done"], 0), len(whole.steps))
        if wanted["box"] is not None and wanted["box"] > len(whole.boxes):
            wanted["box"] = None
        self._shown = scene(self._levels, **wanted)
        self._follow()
        self._show()

    def _follow(self) -> None:
        """Set the controls to the shown state."""
        shown, menus = self._shown, self._menus
        self._following = True
        try:
            if menus["level"].value != shown.level.name:
                menus["level"].value = shown.level.name
                menus["ratio"].options = _ratios(shown.level.ratios)
            if len(menus["box"].options) != len(shown.boxes) + 1:
                menus["box"].options = _boxes(len(shown.boxes))
            menus["done"].max = len(shown.steps)
            menus["ratio"].value, menus["box"].value = shown.ratio or 0.0, shown.box or 0
            menus["threshold"].value, menus["done"].value = shown.threshold, shown.done
        finally:
            self._following = False
        for way, button in self._buttons.items():
            button.disabled = not 0 <= shown.done + way <= len(shown.steps)

    def _show(self) -> None:
        self._figure = draw_figure(self._image, self._shown)
        self._canvas.show(png(self._figure), describe_scene(self._shown))
        self.status = " ".join(sentences(self._shown))
        self.ready()


# A menu cannot show an entry whose value is None: all ratios and no box are 0 there.
def _ratios(ratios: tuple[float, ...]) -> list[tuple[str, float]]:
    return [("all ratios", 0.0), *((f"ratio {ratio:g}", ratio) for ratio in ratios)]


def _boxes(count: int) -> list[tuple[str, int]]:
    return [("none", 0), *((str(number), number) for number in range(1, count + 1))]
