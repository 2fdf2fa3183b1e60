"""``labkit train``: training of a preset on a data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli import completion
from labkit.cli.options import DEVICE, PRECISION, THREADS, computing, data_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from labkit.engine.validation import Validation

EVAL_SPLIT, EVAL_LIMIT = "val", 100


def train(
    preset: Annotated[
        str,
        typer.Argument(
            help="Preset of the model, such as mask_rcnn_tiny; an unknown name lists all.",
            autocompletion=completion.presets,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="shapes, crowded, penn_fudan[:DIR], coco:DIR, coco_panoptic:DIR or cityscapes:DIR."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an unfinished run in it is resumed.")
    ],
    split: Annotated[str, typer.Option(help="Training split.")] = "train",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 600,
    batch_size: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1.5e-3,
    short_side: Annotated[
        int | None,
        typer.Option(help="Resize images to this shorter side, in training and prediction."),
    ] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            help="Initial weights: a run's folder, a name of `labkit zoo list`, a checkpoint file;"
            " with :backbone at the end, the weights of that part only. For *_lite: imagenet."
            " Repeat it to replace a part: --init NAME --init OTHER:backbone."
        ),
    ] = None,
    backbone_lr_factor: Annotated[
        float,
        typer.Option(
            help="Learning rate of the backbone in multiples of --lr; usual if pretrained: 0.1."
        ),
    ] = 1.0,
    workers: Annotated[int, typer.Option(help="Data loading processes.")] = 0,
    seed: Annotated[
        int,
        typer.Option(help="Random seed of weights, order of images and augmentation."),
    ] = 0,
    scale_jitter: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Scale images at random by MIN to MAX (1 fits the image into the crop), then"
            " crop or pad them; the usual large-scale jitter is 0.1 2.",
        ),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of the square crops in pixels. Default with --scale-jitter: the longer side"
            " of the first image after resizing."
        ),
    ] = None,
    color_jitter: Annotated[
        float | None,
        typer.Option(
            help="Strength, 0 to 1, of brightness, contrast and saturation; hue gets a quarter."
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Compute PQ, AP or mIoU every N steps and at the end."),
    ] = None,
    eval_split: Annotated[
        str | None, typer.Option(help="Validation split.", show_default="val")
    ] = None,
    eval_limit: Annotated[
        int | None,
        typer.Option(min=1, help="Validate on the first N images only.", show_default="100"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[int | None, THREADS] = None,
    precision: Annotated[str | None, PRECISION] = None,
) -> None:
    """Train a model on labelled images, with random horizontal flips.

    Ctrl-C saves a checkpoint; run the same command again to resume.

    The folder contains log.csv, the losses of each step, and log.png, their
    curves.

    On several GPUs: torchrun --nproc-per-node N -m labkit train ...
    """
    from dataclasses import asdict, replace

    import torch
    from torchvision.transforms import v2

    from labkit.checkpoints.run_folder import STATE, WEIGHTS, Run, modules_of, save_run
    from labkit.datasets.augmentation import Augmentation
    from labkit.datasets.coco.instances import CocoInstances
    from labkit.datasets.registry import open_dataset
    from labkit.datasets.transforms import JointTransform, TransformedDataset
    from labkit.engine.train import TrainConfig
    from labkit.engine.train import train as run_training
    from labkit.errors import LabkitError
    from labkit.models.presets import PRESETS
    from labkit.models.semantic.deeplab import DeepLab
    from labkit.models.semantic.fcn import FCN
    from labkit.system.distributed import lock_once, process_group, rank
    from labkit.system.message_text import counted
    from labkit.system.unknown_names import unknown_name

    place = computing(device, threads, precision)
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        backbone_lr_factor=backbone_lr_factor,
        workers=workers,
        seed=seed,
        precision=precision,
    )
    augmentation = Augmentation(scale_jitter, crop, color_jitter)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    data = data_name(data, split)
    images = open_dataset(data, split)
    validation = _validation(data, eval_every, eval_split, eval_limit)
    run = Run(preset, images.categories, data, split, short_side, tuple(init or ()), {})
    torch.manual_seed(seed)
    model: Any = run.build()
    resize, preprocessing = None, model.config.preprocessing
    if preprocessing.resize:
        # EoMT fits the longer side to its square; the others the shorter side.
        shorter = None if preprocessing.resize == "pillow_square" else preprocessing.min_size
        resize = v2.Resize(shorter, max_size=preprocessing.max_size)
    if scale_jitter and crop is None and len(images):
        whole = JointTransform(resize)(*images[0])[0] if resize else images[0][0]
        augmentation = replace(augmentation, crop=max(whole.shape[1:]))
    settings = {
        **asdict(config),
        **asdict(augmentation),
        "eval_every": eval_every,
        "eval_split": (eval_split or EVAL_SPLIT) if validation else None,
        "eval_limit": validation.limit if validation else None,
    }
    run = replace(run, train=settings)
    if isinstance(model, FCN | DeepLab) and len(images) and "semantic" not in images[0][1]:
        raise LabkitError(f"{data} has objects only; {preset} needs semantic labels")
    if isinstance(images, CocoInstances) and not images.num_objects:
        raise LabkitError(
            f"{data}, {split}: no objects to train on; see `labkit data check {data}"
            f" --split {split}`"
        )
    with process_group(place), lock_once(out, "labkit train"):
        main = rank() == 0
        if main and not init and preset.endswith("_lite"):
            typer.echo("random initial weights; --init imagenet begins with pretrained ones")
        fresh = _load_initial_weights(model, run.init, resumes=(out / STATE).exists())
        if main and fresh:
            layers = ", ".join(modules_of(fresh, model))
            typer.echo(f"fresh weights, not in {' or '.join(run.init)}: {layers}")
        if main:
            save_run(out, run)
        augmented = TransformedDataset(images, augmentation.joint(resize))
        start = time.perf_counter()
        try:
            history = run_training(
                model, augmented, config, out=out, validation=validation, device=place
            )
        except KeyboardInterrupt as stop:
            if main:
                typer.echo(
                    f"\n{str(stop) or 'stopped'}; run the same command again to resume",
                    err=True,
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


def _load_initial_weights(model: nn.Module, init: Sequence[str], resumes: bool) -> list[str]:
    """Copy the weights that --init names, in its order.

    Args:
        model: the model to train; norms of a pretrained backbone become frozen ones.
        init: as typed.
        resumes: the weights come from the run's folder; only the norms are replaced.

    Returns:
        Names of the parameters that are in none of them.
    """
    from labkit.checkpoints.efficientnet_lite import load_imagenet
    from labkit.checkpoints.run_folder import start_from
    from labkit.engine.predictor import load_model
    from labkit.errors import LabkitError
    from labkit.models.backbones.frozen_norm import freeze_norms

    fresh = list(model.state_dict()) if init and not resumes else []
    for weights in init:
        source, _, part = weights.partition(":")
        if not part or part.startswith("backbone"):
            freeze_norms(model)
        if resumes:
            continue
        if weights == "imagenet":
            missing = load_imagenet(model)
        else:
            trained = load_model(source)
            try:
                missing = start_from(model, trained, part)
            except LabkitError as error:
                raise LabkitError(f"--init {weights}: {error}") from None
        fresh = [name for name in fresh if name in missing]
    return fresh


def _validation(
    data: str, every: int | None, split: str | None, limit: int | None
) -> Validation | None:
    from labkit.datasets.registry import open_dataset
    from labkit.engine.validation import Validation
    from labkit.errors import LabkitError

    if every is None:
        for option, value in (("split", split), ("limit", limit)):
            if value is not None:
                raise LabkitError(f"--eval-{option} needs --eval-every N")
        return None
    try:
        images = open_dataset(data, split or EVAL_SPLIT)
    except LabkitError as error:
        raise LabkitError(
            f"--eval-every: {error}; name the validation split with --eval-split"
        ) from None
    return Validation(images, every, limit or EVAL_LIMIT)
