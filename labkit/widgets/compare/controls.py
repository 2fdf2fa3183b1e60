"""Controls of the comparison: choice of models, choice of image, progress of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ipywidgets

from labkit.checkpoints.model_zoo import find
from labkit.checkpoints.shipped import shipped
from labkit.widgets.compare.image_source import Source, SourceImage, from_upload, source_image
from labkit.widgets.compare.model_runs import Model

GIVEN, DATASET, FILE, UPLOAD = "given", "dataset", "file", "upload"
FITTING = {"description_width": "initial"}
BUILT_IN = {"shapes": "Shapes", "crowded": "Shapes, crowded"}


class ModelList(ipywidgets.HBox):
    """Check box for each model, and a field to add one by name or folder.

    Args:
        models: models by title.
        chosen: titles of the ticked models; None ticks all.
        changed: called with the title after a check box changed.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        chosen: Collection[str] | None,
        changed: Callable[[str], Any],
        guarded: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._models: dict[str, Model] = {}
        self._changed, self._guarded = changed, guarded
        self.boxes = ipywidgets.HBox()
        self.name = ipywidgets.Text(
            placeholder="name of labkit zoo list, or folder",
            description="another",
            layout={"width": "22em"},
            style=FITTING,
        )
        self.button = ipywidgets.Button(description="add model", layout={"width": "auto"})
        self.button.on_click(guarded(lambda _: self.add_named()))
        super().__init__([heading("Models"), self.boxes, self.name, self.button])
        for title, model in models.items():
            self._add(title, model, chosen is None or title in chosen)

    def chosen(self) -> dict[str, Model]:
        """Ticked models by title."""
        return {box.description: self._models[box.description] for box in self.ticked()}

    def ticked(self) -> list[ipywidgets.Checkbox]:
        """Ticked check boxes."""
        return [box for box in self.boxes.children if box.value]

    def add_named(self) -> None:
        """Add and tick the model whose name or folder is in the field.

        Raises:
            LabkitError: the model does not exist; similar names are suggested.
        """
        name = self.name.value.strip()
        if not name:
            return
        if name not in self._models:
            if not Path(name).exists() and name not in shipped():
                find(name)
            self._add(name, name, ticked=False)
        self.name.value = ""
        box = next(box for box in self.boxes.children if box.description == name)
        box.value = True

    def _add(self, title: str, model: Model, ticked: bool) -> None:
        self._models[title] = model
        box = ipywidgets.Checkbox(ticked, description=title, indent=False)
        box.layout.width = "auto"
        box.observe(self._guarded(lambda change: self._changed(title)), "value")
        self.boxes.children = (*self.boxes.children, box)


class ImageChoice(ipywidgets.HBox):
    """Choice of the image: a data set and an index, a file, or an upload.

    Args:
        first: the initial image.
        changed: called after every change.
    """

    def __init__(self, first: Source, changed: Callable[[Any], Any]) -> None:
        options = [(text, name) for name, text in BUILT_IN.items()]
        options += [
            ("data set in a folder", DATASET),
            ("image file", FILE),
            ("upload an image", UPLOAD),
        ]
        name, index = first if isinstance(first, tuple) else (GIVEN, 0)
        self._given = None if isinstance(first, tuple) else source_image(first)
        if self._given is not None:
            options.insert(0, (self._given.title, GIVEN))
        self.kind = ipywidgets.Dropdown(
            options=options,
            value=name if name in (GIVEN, *BUILT_IN) else DATASET,
            description="from",
            layout={"width": "auto"},
            style=FITTING,
        )
        self.folder = ipywidgets.Text(
            name if name not in (GIVEN, *BUILT_IN) else "",
            placeholder="coco_panoptic:FOLDER",
            description="data set",
            continuous_update=False,
            layout={"width": "22em"},
            style=FITTING,
        )
        self.file = ipywidgets.Text(
            placeholder="street.jpg",
            description="file",
            continuous_update=False,
            layout={"width": "22em"},
            style=FITTING,
        )
        self.index = ipywidgets.BoundedIntText(
            index,
            min=0,
            max=10**9,
            description="number",
            layout={"width": "10em"},
            style=FITTING,
        )
        self.upload = ipywidgets.FileUpload(accept="image/*", description="choose a file")
        self._uploaded: tuple[Any, SourceImage] | None = None
        self._changed = changed
        super().__init__(
            [heading("Image"), self.kind, self.folder, self.file, self.index, self.upload]
        )
        self._arrange()
        self.kind.observe(self._kind_changed, "value")
        for field in (self.folder, self.file, self.index, self.upload):
            field.observe(changed, "value")

    @property
    def wanted(self) -> str:
        """Prompt for the missing input; empty if the image is determined."""
        kind = self.kind.value
        if kind == DATASET and not self.folder.value.strip():
            return "Enter a data set, such as coco_panoptic:FOLDER or penn_fudan."
        if kind == FILE and not self.file.value.strip():
            return "Enter an image file."
        if kind == UPLOAD and not self.upload.value:
            return "Choose an image file to upload."
        return ""

    def picture(self) -> SourceImage:
        """Load the chosen image.

        Raises:
            LabkitError: it does not exist, or the upload is not an image.
        """
        kind = self.kind.value
        if kind == GIVEN:
            assert self._given is not None
            return self._given
        if kind == FILE:
            return source_image(self.file.value.strip())
        if kind == UPLOAD:
            return self._read_upload()
        name = self.folder.value.strip() if kind == DATASET else kind
        return source_image((name, self.index.value))

    def _read_upload(self) -> SourceImage:
        uploads = self.upload.value
        if self._uploaded is None or self._uploaded[0] is not uploads:
            last = uploads[-1]
            self._uploaded = uploads, from_upload(last["name"], bytes(last["content"]))
        return self._uploaded[1]

    def _kind_changed(self, change: Any) -> None:
        self._arrange()
        self._changed(change)

    def _arrange(self) -> None:
        kind = self.kind.value
        _show(self.folder, kind == DATASET)
        _show(self.file, kind == FILE)
        _show(self.index, kind in (*BUILT_IN, DATASET))
        _show(self.upload, kind == UPLOAD)


class Progress(ipywidgets.HBox):
    """Progress of a run, and a button to cancel it; hidden while nothing runs."""

    def __init__(self, cancel: Callable[[Any], Any]) -> None:
        self.bar = ipywidgets.FloatProgress(0.0, min=0.0, max=1.0)
        self.text = ipywidgets.Label()
        self.button = ipywidgets.Button(description="cancel")
        self.button.on_click(cancel)
        super().__init__([self.bar, self.text, self.button])
        self.add_class("labkit-progress")
        self.hide()

    def say(self, text: str, share: float = 0.0) -> None:
        """Show a text and the completed share of the work, 0 to 1."""
        self.text.value, self.bar.value = text, share
        _show(self, True)

    def hide(self) -> None:
        """Hide the progress after a run."""
        _show(self, False)


def heading(text: str) -> ipywidgets.HTML:
    """Heading of a group of controls, of the same width for all groups."""
    return ipywidgets.HTML(f"<b>{text}</b>", layout={"width": "5.5em"})


def _show(widget: ipywidgets.Widget, shown: bool) -> None:
    widget.layout.display = None if shown else "none"
