"""``labkit train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli import completion
from labkit.cli.options import data_name


def train(
    preset: Annotated[
        str,
        typer.Argument(
            help="The model, such as mask_rcnn_tiny.", autocompletion=completion.presets
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="shapes, crowded, penn_fudan[:DIR], or coco, coco_panoptic, cityscapes:DIR."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; of an unfinished one, to go on.")],
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "train",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 600,
    batch_size: Annotated[int, typer.Option(help="Images a step, of all processes.")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1.5e-3,
    short_side: Annotated[
        int | None,
        typer.Option(help="Resize images to this shorter side, in training and afterwards."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from a run's folder or weights of `labkit zoo list`;"
            " with :backbone at the end, from that part of them alone."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the weights, the order and the flips.")] = 0,
) -> None:
    """Train a model on labelled images, mirrored at random; Ctrl-C saves, the same command goes on.

    On several GPUs: torchrun --nproc-per-node N -m labkit train ...
    """
    from dataclasses import asdict

    import torch
    from torchvision.transforms import v2

    from labkit.checkpoints.folder import STATE, WEIGHTS, Run, save_run, start_from
    from labkit.counted import counted
    from labkit.datasets.coco_instances import CocoInstances
    from labkit.datasets.named import dataset
    from labkit.datasets.transforms import Joint, Transformed
    from labkit.distributed import lock_once, process_group, rank
    from labkit.errors import LabkitError
    from labkit.models.detector import Detector
    from labkit.models.semantic import SemanticModel
    from labkit.predictor import load_model
    from labkit.training import TrainConfig
    from labkit.training import train as run_training

    config = TrainConfig(steps=steps, batch_size=batch_size, lr=lr, workers=workers, seed=seed)
    data = data_name(data, split)
    images = dataset(data, split)
    run = Run(preset, images.categories, data, split, short_side, init, asdict(config))
    torch.manual_seed(seed)
    model = run.build()
    if isinstance(model, SemanticModel) and len(images) and "semantic" not in images[0][1]:
        raise LabkitError(f"{data} has objects only; {preset} needs a class for every pixel")
    if isinstance(images, CocoInstances) and not images.objects:
        raise LabkitError(
            f"{data}, {split}: there is no object to learn from; see `labkit data check {data}"
            f" --split {split}`"
        )
    with process_group(), lock_once(out, "labkit train"):
        main = rank() == 0
        if init and not (out / STATE).exists():
            source, _, part = init.partition(":")
            fresh = start_from(model, load_model(source), part)
            if main and fresh:
                layers = dict.fromkeys(".".join(name.split(".")[:2]) for name in fresh)
                typer.echo(f"fresh weights, not in {init}: {', '.join(layers)}")
        if main:
            save_run(out, run)
        changes: list[v2.Transform] = [v2.RandomHorizontalFlip()]
        if isinstance(model, Detector) and model.config.conventions.resize:
            conventions = model.config.conventions
            changes.append(v2.Resize(conventions.short, max_size=conventions.long))
        start = time.perf_counter()
        try:
            history = run_training(model, Transformed(images, Joint(*changes)), config, out=out)
        except KeyboardInterrupt as stop:
            if main:
                typer.echo(
                    f"\n{str(stop) or 'stopped'}; the same command goes on from {out}", err=True
                )
            raise typer.Exit(130) from None
        if main:
            last = history.losses["total"][-20:]
            typer.echo(
                f"{counted(history.steps, 'step')}, {time.perf_counter() - start:.0f} s in this"
                " call;"
                f" mean loss of the last {len(last)}: {sum(last) / len(last):.3f}\n"
                f"weights: {out / WEIGHTS}\nmeasure: labkit eval {out}"
            )
