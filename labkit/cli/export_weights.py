"""``labkit export-weights``: a trained model as another project's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion
from labkit.cli.options import MODEL


def export_weights(
    model: Annotated[str, typer.Argument(help=MODEL, autocompletion=completion.models)],
    out: Annotated[Path, typer.Option(help="Folder for model_final.pth and config.yaml.")],
) -> None:
    """Write a Mask R-CNN or Panoptic FPN as Detectron2's checkpoint and configuration.

    Of the presets with a ResNet. Detectron2 loads both:

    cfg.merge_from_file("OUT/config.yaml")

    DetectionCheckpointer(build_model(cfg)).load("OUT/model_final.pth")
    """
    from labkit.checkpoints.export_weights import export_detectron2_weights
    from labkit.engine.predictor import load_model

    path = export_detectron2_weights(load_model(model), out)
    typer.echo(f"{path}\n{path.with_name('config.yaml')}")
