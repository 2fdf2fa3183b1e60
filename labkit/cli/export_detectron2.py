"""``labkit export-detectron2``: a data set and configuration for Detectron2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import data_name


def export_detectron2(
    data: Annotated[str, typer.Argument(help="coco_panoptic:DIR, or coco:DIR for objects alone.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    split: Annotated[str, typer.Option(help="Training split.")] = "train",
    val_split: Annotated[str | None, typer.Option(help="Validation split.")] = None,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="Semantic segmentation only, without objects.")
    ] = False,
    depth: Annotated[int, typer.Option(help="Depth of the ResNet, 50 or 101.")] = 50,
    batch_size: Annotated[
        int, typer.Option(help="Images per step; the learning rate is scaled to it.")
    ] = 16,
    epochs: Annotated[float, typer.Option(help="Passes over the training images.")] = 36,
) -> None:
    """Write registration, configuration and training script of a data set for Detectron2.

    The class counts of each head follow from the data, learning rate and steps
    from the batch size.
    """
    from labkit.checkpoints.model_zoo import find
    from labkit.datasets.detectron2.export import export_detectron2 as write
    from labkit.errors import LabkitError
    from labkit.system.message_text import counted

    data = data_name(data, split)
    kind, _, folder = data.partition(":")
    if kind not in ("coco", "coco_panoptic") or not folder:
        raise LabkitError(f"data: {data!r} is neither coco_panoptic:DIR nor coco:DIR")
    if semantic and kind == "coco":
        raise LabkitError("--semantic needs coco_panoptic:DIR; coco:DIR has objects only")
    if depth not in (50, 101):
        raise LabkitError(f"--depth {depth}: Detectron2's model zoo has 50 and 101")
    names = {"coco_panoptic": f"panoptic_fpn_R_{depth}_3x", "coco": f"mask_rcnn_R_{depth}_FPN_3x"}
    weights = find(names[kind])
    config = write(
        folder,
        out,
        "semantic" if semantic else "panoptic" if kind == "coco_panoptic" else "instance",
        split,
        val_split,
        weights=weights.url,
        depth=depth,
        batch_size=batch_size,
        epochs=epochs,
    )
    model, solver = config["MODEL"], config["SOLVER"]
    for head in ("ROI_HEADS", "SEM_SEG_HEAD"):
        if head in model:
            typer.echo(f"MODEL.{head}.NUM_CLASSES {model[head]['NUM_CLASSES']}")
    typer.echo(
        f"{counted(solver['IMS_PER_BATCH'], 'image')} a step, learning rate {solver['BASE_LR']:g},"
        f" {counted(solver['MAX_ITER'], 'step')}\ninitial weights: {weights.name}; licence:"
        f" {weights.licence}"
    )
    typer.echo(f"wrote {out}; train with Detectron2: python {out / 'train.py'}")
