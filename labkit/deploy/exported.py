"""The folder of an exported model: checked when it is opened, run on an image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from labkit.deploy import queries, rcnn, upsnet
from labkit.deploy.images import preprocess
from labkit.deploy.result import Array, Result, Run, Sizes
from labkit.errors import LabkitError

OPSET = 18
DESCRIPTION = "model.json"


class ExportedModel:
    """A model of ``labkit export``, ready to predict.

    Args:
        folder: of the export.
        threads: of the CPU; None: all cores.

    Attributes:
        categories: ``id``, ``name`` and ``isthing`` of each label, things first.
        graphs: onnxruntime's sessions by name.

    Raises:
        LabkitError: see :func:`load`.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.description = read_description(folder / DESCRIPTION)
        self.categories: list[dict[str, Any]] = self.description["categories"]
        self.graphs = {
            name: open_graph(folder / graph["file"], graph["sha256"], threads)
            for name, graph in self.description["graphs"].items()
        }

    def __call__(self, image: str | Path | Array) -> Result:
        """Predict.

        Args:
            image: a file, or RGB ``(H, W, 3)`` uint8.

        Raises:
            LabkitError: it is no such image, or not of the size that the graph is for.
        """
        batch, sizes = preprocess(read_image(image), self.description["preprocessing"])
        self._check_size(sizes)
        num_things = sum(bool(category["isthing"]) for category in self.categories)
        predict = FAMILIES[self.description["family"]]
        return predict(self.run, batch, sizes, num_things, self.description["config"])

    def run(self, graph: str, **inputs: Array) -> dict[str, Array]:
        """Run a graph: its outputs by name. Inputs that it does not have are left out."""
        session = self.graphs[graph]
        known = [value.name for value in session.get_inputs()]
        outputs = session.run(None, {name: inputs[name] for name in known})
        return dict(zip((value.name for value in session.get_outputs()), outputs, strict=True))

    def _check_size(self, sizes: Sizes) -> None:
        first = next(iter(self.graphs.values()))
        expected = first.get_inputs()[0].shape[2:]
        if any(isinstance(n, int) and n != m for n, m in zip(expected, sizes.padded, strict=True)):
            shown = " x ".join(map(str, sizes.padded))
            raise LabkitError(
                f"image of {sizes.image[0]} x {sizes.image[1]} pixels: padded, it has {shown}; this"
                f" export is for {expected[0]} x {expected[1]} alone: resize it"
            )


def predict_semantic(
    run: Run, batch: Array, sizes: Sizes, num_things: int, config: dict[str, Any]
) -> Result:
    """The semantic map."""
    labels = run("network", image=batch)["logits"][0].argmax(axis=0)
    return Result(semantic=labels[: sizes.input[0], : sizes.input[1]])


FAMILIES = {
    "semantic": predict_semantic,
    "rcnn": rcnn.predict,
    "upsnet": upsnet.predict,
    "detr": queries.predict_detr,
    "mask_classification": queries.predict_masks,
}


def load(folder: str | Path, threads: int | None = None) -> ExportedModel:
    """Open a folder that ``labkit export`` wrote.

    Args:
        folder: with ``model.json`` and the graphs.
        threads: of the CPU; None: all cores.

    Raises:
        LabkitError: onnxruntime is missing; there is no such folder; ``model.json`` cannot be read,
            is for another opset, or has more or fewer categories than the graphs have classes; a
            graph is not the file that was exported.
    """
    return ExportedModel(Path(folder), threads)


def read_description(path: Path) -> dict[str, Any]:
    """Read and check ``model.json``."""
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        opset, classes = description["opset"], description["num_categories"]
        count = len(description["categories"])
    except FileNotFoundError:
        raise LabkitError(f"{path}: not found; name a folder that labkit export wrote") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabkitError(f"{path}: cannot be read ({error!r}); export again") from None
    if opset != OPSET:
        raise LabkitError(f"{path}: opset {opset}; this labkit runs opset {OPSET}: export again")
    if count != classes:
        raise LabkitError(
            f"{path}: {count} categories, but the network has outputs for {classes}: names may be"
            " changed, none added or removed"
        )
    return description


def open_graph(path: Path, sha256: str, threads: int | None) -> Any:
    """Open a graph as a session of onnxruntime, if it is the file that was exported."""
    try:
        import onnxruntime
    except ImportError:
        raise LabkitError(
            "onnxruntime is not installed; run: pip install 'labkit[deploy]'"
        ) from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read ({error}); export again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LabkitError(
            f"{path}: not the file that {DESCRIPTION} describes (its sha256 differs): it was"
            " edited, converted to another opset, or belongs to another export; export again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def read_image(image: str | Path | Array) -> Array:
    """``(H, W, 3)`` uint8 RGB of a file, turned upright, or of an array."""
    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                return np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise LabkitError(f"{image}: not an image ({error})") from None
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise LabkitError(f"image: expected RGB (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image
