"""``labkit export``: a model as ONNX graphs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli import completion
from labkit.cli.json_output import Json, write_numbers
from labkit.cli.options import CATEGORIES, MODEL


def export(
    model: Annotated[str, typer.Argument(help=MODEL, autocompletion=completion.models)],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="With --check: images, folders or patterns.", metavar="[IMAGE...]"),
    ] = None,
    *,
    onnx: Annotated[Path, typer.Option(help="Folder for the graphs and model.json.")],
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare both on the IMAGEs; exit status 1 if they differ."),
    ] = False,
    categories: Annotated[Path | None, CATEGORIES] = None,
    json: Json = None,
) -> None:
    """Write a model as ONNX graphs, which labkit.deploy runs without PyTorch.

    An R-CNN becomes three graphs, features.onnx, boxes.onnx and masks.onnx,
    every other model one, network.onnx. model.json describes them.

    labkit export panoptic_fpn_tiny --onnx exported --check street.jpg
    """
    from labkit.engine.export_onnx import export_onnx
    from labkit.engine.image_paths import find_images
    from labkit.engine.predictor import load_model
    from labkit.errors import LabkitError

    if check != bool(images):
        raise LabkitError("--check and images belong together: --check IMAGE...")
    if json is not None and not check:
        raise LabkitError("--json is for the differences: add --check IMAGE...")
    paths = find_images(images or [])
    network = load_model(model, categories)
    for path in export_onnx(network, onnx):
        typer.echo(path)
    if check and not _check(network, onnx, paths, json):
        raise typer.Exit(1)


def _check(model: Any, folder: Path, paths: list[Path], json: Path | None) -> bool:
    """Print the largest differences; return whether all are within the tolerance."""
    import torch

    from labkit.deploy import load
    from labkit.deploy.exported import read_image
    from labkit.engine.check_export import TOLERANCE, Differences, compare
    from labkit.engine.predictor import Predictor
    from labkit.system.message_text import counted

    predictor, exported = Predictor(model, torch.device("cpu")), load(folder)
    largest, beyond = Differences(), []
    for path in paths:
        image = read_image(path)
        found = compare(predictor(path), exported(image), image.shape[:2])
        largest = largest.largest(found)
        if not found.within_tolerance:
            beyond.append(path)
    if json is not None:
        write_numbers(json, {"images": len(paths), "beyond": len(beyond), **asdict(largest)})
    typer.echo(
        f"largest differences on {counted(len(paths), 'image')}:"
        f"\n  boxes    {largest.boxes:.1e} of the longer side"
        f"\n  scores   {largest.scores:.1e}"
        f"\n  masks    {counted(largest.masks, 'pixel')}"
        f"\n  semantic {counted(largest.semantic, 'pixel')}"
        f"\n  panoptic {counted(largest.panoptic, 'pixel')}"
    )
    if largest.unmatched:
        typer.echo(f"  unmatched {largest.unmatched} detections or segments")
    for path in beyond:
        typer.echo(f"{path}: differs by more than {TOLERANCE:g}", err=True)
    return not beyond
