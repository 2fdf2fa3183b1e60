"""Segment viewer: linked panels over one image, which describe the pixel under the pointer.

One anywidget without a build step. An image goes to the browser once, as zlib-compressed
differences between neighbours, each layer as a zlib-compressed map of 16-bit numbers; the browser
inflates them and draws the pixels of :func:`labkit.widgets.viewer.segment_layers.draw_layer`.
Opacity, filters and pointing are answered there and need no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from torch import Tensor

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.widgets.app import png, with_still
from labkit.widgets.offline_page import MODEL, offline_page, offline_piece
from labkit.widgets.viewer.image_encoding import encode_image, encode_layer, in_words
from labkit.widgets.viewer.segment_layers import Layer, draw_layer, draw_layers, enlargement

SCRIPTS = ("make_element.js", "viewer/viewer_pixels.js", "viewer/viewer.js")
STYLES = ("offline.css", "viewer/viewer.css")
"""Files of the viewer in a page without a kernel."""

SCRIPT = "\n".join(
    (Path(__file__).parents[1] / name).read_text(encoding="utf-8") for name in SCRIPTS
)
OFFLINE = ("_image", "_layers", "opacity", "show_things", "show_stuff", "show_names", "hidden")
"""Traits that an offline page keeps."""


class SegmentViewer(anywidget.AnyWidget):
    """Segment viewer: linked panels with hover, keyboard, opacity, filters and selection.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        layers: one for each panel.
        opacity: opacity of the segments over the image, 0..1.
        movable: indices of the layers whose segments can be moved, see :meth:`on_move`.

    Attributes:
        opacity: the current opacity, which a slider and the keys + and - change.
        show_things, show_stuff, show_names: states of the check boxes.
        hidden: (index of the layer, id) of segments that are not drawn.
        hovered: pixel (x, y) of the image under the pointer, or None.
        selected: (index of the layer, id) of the segment chosen by a click or Enter, or None.

    Raises:
        LabkitError: image and layers differ in size, or a layer has more than 65,535 segments.
    """

    _esm = SCRIPT
    _css = Path(__file__).with_name("viewer.css")
    _image = traitlets.Dict().tag(sync=True)
    _layers: Any = traitlets.List().tag(sync=True)
    _movable: Any = traitlets.List().tag(sync=True)
    _moves = traitlets.Int(0).tag(sync=True)
    opacity = traitlets.Float(0.6, min=0.0, max=1.0).tag(sync=True)
    show_things = traitlets.Bool(True).tag(sync=True)
    show_stuff = traitlets.Bool(True).tag(sync=True)
    show_names = traitlets.Bool(True).tag(sync=True)
    hidden: Any = traitlets.List().tag(sync=True)
    hovered: Any = traitlets.List(allow_none=True, default_value=None).tag(sync=True)
    selected: Any = traitlets.List(allow_none=True, default_value=None).tag(sync=True)

    def __init__(
        self,
        image: Tensor | np.ndarray,
        layers: Sequence[Layer],
        *,
        opacity: float = 0.6,
        movable: Collection[int] = (),
    ) -> None:
        super().__init__(opacity=opacity, _movable=sorted(movable))
        self.image = np.zeros((3, 0, 0), np.uint8)
        self._shown_layers: tuple[Layer, ...] = ()
        self.on_msg(self._message)
        self._on_move: Callable[[int, int, int, int], None] | None = None
        self.show(image, layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the panels; assign to draw others over the same image."""
        return self._shown_layers

    @layers.setter
    def layers(self, layers: Sequence[Layer]) -> None:
        self.show(self.image, layers)

    def show(self, image: Tensor | np.ndarray, layers: Sequence[Layer]) -> None:
        """Show another image with its layers; after an error the old ones stay."""
        pixels = np.asarray(image.cpu() if isinstance(image, Tensor) else image)
        if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8:
            raise LabkitError(f"image must be (3, H, W) uint8, got {pixels.shape} {pixels.dtype}")
        height, width = pixels.shape[1:]
        for layer in layers:
            if layer.message is None and layer.ids.shape != (height, width):
                raise LabkitError(
                    f'layer "{layer.title}" is {layer.ids.shape[0]} x {layer.ids.shape[1]} pixels'
                    f" (height x width), the image {height} x {width}"
                )
        encoded = [encode_layer(layer) for layer in layers]
        same = np.array_equal(pixels, self.image)
        self.image = pixels
        self._shown_layers = tuple(layers)
        with self.hold_sync():
            if not same:
                self._image = encode_image(pixels)
            self._layers = encoded
            if self.selected and not self._exists(*self.selected):
                self.selected = None

    def visible(self, number: int) -> set[int]:
        """Ids of a layer that are currently drawn."""
        hidden = {i for k, i in map(tuple, self.hidden) if k == number}
        return {
            i
            for i, info in self.layers[number].info.items()
            if i not in hidden and (self.show_things if info.isthing else self.show_stuff)
        }

    def pixels(self, number: int) -> np.ndarray:
        """Current pixels of a layer's canvas, see :func:`draw_layer`."""
        scale = enlargement(*self.image.shape[1:])
        layer = self.layers[number]
        return draw_layer(self.image, layer, self.opacity, self.visible(number), scale=scale)

    def describe(self, x: int, y: int) -> list[str]:
        """Describe pixel (x, y) in each panel."""
        return [layer.message or layer.describe(x, y) for layer in self.layers]

    def on_move(self, callback: Callable[[int, int, int, int], None]) -> None:
        """Call ``callback(layer, id, dx, dy)`` when the reader moves a segment by some pixels.

        The viewer itself changes nothing; the callback assigns new ``layers``.
        """
        self._on_move = callback

    def still(self) -> tuple[bytes, str]:
        """All panels as one PNG, and their text alternative."""
        hidden = [
            (k, i) for k, layer in enumerate(self.layers) for i in set(layer.info) - self.visible(k)
        ]
        figure = draw_layers(self.image, self.layers, self.opacity, hidden)
        return png(figure), self.in_words()

    def in_words(self) -> str:
        """Describe the panels for screen readers, one line each."""
        return "\n".join(map(in_words, self.layers))

    def offline(self) -> str:
        """HTML that answers in a page without a kernel.

        Segments cannot be moved in it: that needs the kernel's metrics.
        """
        state = {name: getattr(self, name) for name in OFFLINE}
        return offline_piece(state, [MODEL, *SCRIPTS, "viewer/offline.js"], STYLES)

    def to_html(self, path: str | Path) -> None:
        """Write :meth:`offline` as one HTML file that works without a kernel and a network."""
        title = " | ".join(layer.title for layer in self.layers)
        page = offline_page(title, self.offline())
        with atomic_write(Path(path)) as unfinished:
            unfinished.write_text(page, encoding="utf-8")

    def _exists(self, number: int, segment_id: int) -> bool:
        return number < len(self.layers) and segment_id in self.layers[number].info

    def _message(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("kind") != "move":
            return
        try:
            if self._on_move is not None:
                self._on_move(*(int(content[name]) for name in ("layer", "id", "dx", "dy")))
        finally:
            self._moves += 1  # the browser sends the next move only after this

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return with_still(data, self.still, self.offline, self.log.error), metadata
