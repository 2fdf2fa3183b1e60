"""``labkit eval``: metrics of a model on a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli import completion
from labkit.cli.json_output import Json, write_numbers
from labkit.cli.options import CATEGORIES, DEVICE, MODEL, PRECISION, THREADS, computing, data_name

if TYPE_CHECKING:
    from labkit.engine.evaluate import Evaluation


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help=MODEL,
            autocompletion=completion.models,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Data set as for `labkit train`; default: the run's training data."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "val",
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="Print one table: PQ, SQ, RQ, mIoU and AP.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N images only.")] = None,
    json: Json = None,
    categories: Annotated[Path | None, CATEGORIES] = None,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[int | None, THREADS] = None,
    precision: Annotated[str | None, PRECISION] = None,
) -> None:
    """Evaluate a model: AP of boxes and masks by pycocotools, mIoU, PQ.

    Several processes: torchrun --nproc-per-node N -m labkit eval ...
    """
    from labkit.checkpoints.model_zoo import find
    from labkit.checkpoints.own_files import is_checkpoint
    from labkit.checkpoints.run_folder import read_run
    from labkit.checkpoints.shipped import shipped
    from labkit.cli.pq import to_json
    from labkit.datasets.registry import open_dataset
    from labkit.engine.evaluate import evaluate as measure
    from labkit.engine.predictor import load_model
    from labkit.errors import LabkitError
    from labkit.system.distributed import process_group, rank
    from labkit.system.message_text import counted

    place = computing(device, threads, precision)
    if data is None:
        if Path(model).exists() and not is_checkpoint(Path(model)):
            data = read_run(Path(model)).data
        elif model in shipped():
            data = shipped()[model].data
        else:
            if not is_checkpoint(Path(model)):
                find(model)  # an unknown name is the worse mistake
            raise LabkitError(f"{model}: name the data set with --data; published weights need it")
    data = data_name(data, split)
    images = open_dataset(data, split)
    with process_group(place):
        result = measure(
            load_model(model, categories),
            images,
            limit,
            need_panoptic=panoptic,
            device=place,
            precision=precision,
        )
        if rank() > 0:
            return
    if json is not None:
        write_numbers(json, {"model": model, "data": data, "split": split, **to_json(result)})
    title = f"{data}, {split}: {counted(result.images, 'image')}"
    if panoptic:
        print_summary(result, title)
    else:
        print_result(result, title, getattr(images, "area_limits", None))


def print_result(result: Evaluation, title: str, areas: tuple[float, float] | None) -> None:
    """Print tables in percent, one row for each kind of output; undefined values are dashes."""
    from rich.console import Console

    console = Console()
    if result.panoptic is not None:
        print_summary(result, title)
    else:
        console.print(title, highlight=False)
    if result.detection is not None:
        _print(
            ("AP", "AP50", "AP75", "APs", "APm", "APl"),
            {
                name: [ap.ap, ap.ap50, ap.ap75, ap.small, ap.medium, ap.large]
                for name, ap in (("boxes", result.detection.bbox), ("masks", result.detection.segm))
                if ap is not None
            },
        )
        if areas is not None:
            small, large = (area**0.5 for area in areas)
            console.print(f"small: below {small:.1f}², large: from {large:.1f}² pixels")
    if result.semantic is not None:
        semantic = result.semantic
        row = [semantic.miou, semantic.pixel_accuracy]
        row += [semantic.mean_accuracy, semantic.frequency_weighted_iou]
        _print(("mIoU", "pixel acc.", "mean acc.", "fw IoU"), {"classes": row})


def print_summary(result: Evaluation, title: str) -> None:
    """Print one table of a panoptic model in percent; AP exists for things only."""
    from rich.console import Console

    panoptic, detection, none = result.panoptic, result.detection, math.nan
    assert panoptic is not None
    boxes = none if detection is None else detection.bbox.ap
    masks = none if detection is None or detection.segm is None else detection.segm.ap
    iou: dict[bool, list[float]] = {True: [], False: []}
    if result.semantic is not None:
        for category, value in zip(panoptic.per_class, result.semantic.iou, strict=True):
            iou[category.isthing].append(value)
    rows = {
        "All": (panoptic.all, iou[True] + iou[False], none, none),
        "Things": (panoptic.things, iou[True], boxes, masks),
        "Stuff": (panoptic.stuff, iou[False], none, none),
    }
    Console().print(title, highlight=False)
    _print(
        ("PQ", "SQ", "RQ", "mIoU", "box AP", "mask AP"),
        {
            name: [mean.pq, mean.sq, mean.rq, _mean(of_classes), box_ap, mask_ap]
            for name, (mean, of_classes, box_ap, mask_ap) in rows.items()
        },
    )


def _mean(values: Sequence[float]) -> float:
    """Mean of the defined values; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _print(columns: tuple[str, ...], rows: dict[str, list[float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from labkit.cli.pq import percent

    table = Table("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *map(percent, values))
    Console().print(table)
