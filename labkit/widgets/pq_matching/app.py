"""App of the panoptic quality explorer: point at segments, move predictions, watch the score."""

from __future__ import annotations

import html

import ipywidgets
import numpy as np
from torch import Tensor

from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import PanopticResult
from labkit.structures import Categories, Panoptic
from labkit.system.message_text import counted
from labkit.widgets.app import App, png
from labkit.widgets.offline_page import MODEL, offline_piece
from labkit.widgets.pq_matching.matching import (
    COLUMNS,
    draw_pq_matching,
    layers,
    matching,
    move,
    table,
)
from labkit.widgets.viewer.image_encoding import encode_image, encode_layer
from labkit.widgets.viewer.segment_layers import layer_of
from labkit.widgets.viewer.viewer import SCRIPTS, STYLES, SegmentViewer

PREDICTION = 1
"""Index of the panel whose segments can be moved."""


class PQMatching(App):
    """Ground truth and prediction with their matches, and PQ, SQ and RQ of the image.

    Pointing at a segment outlines its match and shows the IoU and the contribution to PQ. Dragging
    a predicted segment, or moving it with Enter and the arrow keys, updates the scores.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        target: the ground truth.
        prediction: the predicted map.
        categories: names and colours.

    Attributes:
        offsets: offset (x, y) in pixels of each moved segment.
        viewer: the panels.
    """

    def __init__(
        self, image: Tensor, target: Panoptic, prediction: Panoptic, categories: Categories
    ) -> None:
        self.image, self.target, self.categories = image, target, categories
        self.prediction = prediction
        self.offsets: dict[int, tuple[int, int]] = {}
        self.start = self.matching = matching(prediction, target, categories)
        self.viewer = SegmentViewer(
            image, layers(self.start, categories), opacity=0.6, movable=[PREDICTION]
        )
        self.scores = ipywidgets.HTML(_html(self.start.quality, self.start.quality))
        self.reset = ipywidgets.Button(description="put all back", disabled=True)
        super().__init__("pq-matching", [self.viewer, self.scores, self.reset])
        self.viewer.on_move(self.guarded(self.move))
        self.reset.on_click(self.guarded(lambda _: self.put_back()))
        self._say("Drag a predicted segment, or choose it with Enter and use the arrow keys.")

    def move(self, layer: int, segment_id: int, dx: int, dy: int) -> None:
        """Move a predicted segment by some pixels; its centre stays in the image."""
        if layer != PREDICTION:
            return
        pixels = np.argwhere(self.prediction.ids.numpy(force=True) == segment_id)
        if not len(pixels):
            raise LabkitError(
                f"cannot move segment {segment_id}: the prediction has no such segment"
            )
        row, column = pixels[len(pixels) // 2].tolist()
        height, width = self.prediction.ids.shape
        was_x, was_y = self.offsets.pop(segment_id, (0, 0))  # added again last, so it is on top
        x = min(max(was_x + dx, -column), width - 1 - column)
        y = min(max(was_y + dy, -row), height - 1 - row)
        self.offsets[segment_id] = (x, y)
        name = layer_of(self.prediction, self.categories, "").info[segment_id].text
        aside, up = "left" if x < 0 else "right", "up" if y < 0 else "down"
        self._show(
            f"{name} is {counted(abs(x), 'pixel')} {aside} and {abs(y)} {up} of where it was."
        )

    def put_back(self) -> None:
        """Undo all moves."""
        self.offsets.clear()
        self._show("Everything is where it was.")

    def still(self) -> tuple[bytes, str]:
        data = png(
            draw_pq_matching(
                self.image, self.target, self.prediction, self.categories, self.offsets
            )
        )
        return data, f"{_score(self.matching.quality)}\n{self.viewer.in_words()}"

    def offline(self) -> str:
        image, categories = self.image.numpy(force=True), self.categories
        sides = ((self.target, "ground truth"), (self.prediction, "prediction"))
        encoded = []
        for panoptic, title in sides:
            layer = encode_layer(layer_of(panoptic, categories, title))
            for drawn, segment in zip(layer["segments"], panoptic.segments, strict=True):
                score = None if segment.score is None else f"score {segment.score:.2f}"
                drawn.update(label=segment.label, iscrowd=bool(segment.iscrowd), score=score)
            encoded.append(layer)
        names = [category.name for category in categories]
        state = {"image": encode_image(image), "layers": encoded, "classes": names}
        return offline_piece(state, [MODEL, *SCRIPTS, "pq_matching/offline.js"], STYLES)

    def _show(self, what: str) -> None:
        moved = move(self.prediction, self.offsets)
        self.matching = matching(moved, self.target, self.categories)
        self.viewer.layers = layers(self.matching, self.categories)
        self.scores.value = _html(self.matching.quality, self.start.quality)
        self.reset.disabled = not self.offsets
        self._say(what)
        self.ready()

    def _say(self, what: str) -> None:
        self.status = f"{_score(self.matching.quality)} {what}"


def _score(quality: PanopticResult) -> str:
    mean = quality.all
    return f"PQ {100 * mean.pq:.1f}, SQ {100 * mean.sq:.1f}, RQ {100 * mean.rq:.1f}."


def _html(quality: PanopticResult, before: PanopticResult) -> str:
    """Make the table of scores; classes with a changed PQ are in bold."""
    head = "".join(
        f'<th scope="col" style="text-align:right;padding:0 10px">{c}</th>' for c in COLUMNS
    )
    body = ""
    for row in table(quality, before):
        weight = "bold" if row[-1] != row[-2] else "normal"
        cells = "".join(
            f'<td style="text-align:right;padding:0 10px">{html.escape(cell)}</td>' for cell in row
        )
        body += f'<tr style="font-weight:{weight}">{cells}</tr>'
    return (
        '<table style="font-variant-numeric:tabular-nums;line-height:1.5">'
        "<caption>Scores of this image, in percent</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
