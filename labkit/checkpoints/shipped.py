"""Small weights that come with labkit, in ``data/checkpoints``: for Shapes, and for pedestrians.

``checkpoints.toml`` beside them records the training commands and the metrics; ``pack.py`` wrote
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabkitError
from labkit.system.paths import DATA
from labkit.system.text_files import read_toml

if TYPE_CHECKING:
    from torch import nn

FOLDER = DATA / "checkpoints"


@dataclass(frozen=True)
class Shipped:
    """Weights that come with labkit, with the record of their training.

    Attributes:
        name: name of the weights.
        preset: name of the architecture, which may have several weights.
        data: name of the data set, ``shapes`` or ``penn_fudan``.
        commands: training commands, in order.
        seconds: training time on one core.
        metrics: metrics in percent on ``val``; of Shapes, on 500 images of it.
        crowded: of Shapes, metrics in percent on 200 images of the crowded variant's ``val``.
        first_100: of Shapes, metrics in percent on the first 100 images of ``val``, for a test.
    """

    name: str
    preset: str
    data: str
    commands: list[str]
    seconds: int
    metrics: dict[str, float]
    crowded: dict[str, float]
    first_100: dict[str, float]

    @property
    def path(self) -> Path:
        """Path of the float16 weights."""
        return FOLDER / f"{self.name}.safetensors"

    def load(self) -> nn.Module:
        """Load the model in float32, in evaluation mode."""
        from labkit.checkpoints.weights import load_weights  # here, because listing needs no torch
        from labkit.datasets.penn_fudan import PennFudan
        from labkit.datasets.shapes import Shapes
        from labkit.models.backbones.frozen_norm import freeze_norms
        from labkit.models.presets import build

        categories = PennFudan.categories if self.data == "penn_fudan" else Shapes.categories
        model = build(self.preset, categories)
        load_weights(self.path, model)
        freeze_norms(model)
        model.categories = categories  # type: ignore[assignment]  # semantic models count them
        return model.eval()


def shipped() -> dict[str, Shipped]:
    """List all weights that come with labkit, by name.

    Raises:
        LabkitError: the record is missing, or has an unknown or missing field.
    """
    record = FOLDER / "checkpoints.toml"
    try:
        return {name: Shipped(name, **table) for name, table in read_toml(record).items()}
    except TypeError as error:
        raise LabkitError(f"{record}: {error}") from None
