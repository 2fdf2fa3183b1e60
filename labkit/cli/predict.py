"""``labkit predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.options import data_name

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.structures import Categories, Detections, Prediction


def predict(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures.", metavar="[IMAGE...]")
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="Folder of a run, or a name of `labkit zoo list`.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written.")],
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw objects from this score on, 0.5.")
    ] = None,
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="Write the panoptic maps of a data set.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="A data set as for `labkit train`: its pictures, or the IMAGEs among them, with"
            " its ids."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --data: which part of the data, val.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --data: only the first so many images.")
    ] = None,
) -> None:
    """Draw what a model finds on pictures, or write its panoptic maps of a data set.

    Pictures: a drawing NAME.png of each, and predictions.json, all objects
    as COCO results. With --data they carry the data set's ids, so that
    pycocotools compares them with its annotations.

    With --panoptic: panoptic_SPLIT.json and panoptic_SPLIT/*.png in COCO's
    format, for `labkit pq` and panopticapi; the same command goes on after
    Ctrl-C. Several processes: torchrun --nproc-per-node N -m labkit predict ...
    """
    from labkit.errors import LabkitError

    if panoptic:
        if images:
            raise LabkitError("--panoptic is for a data set: say --data, and no pictures")
        if data is None:
            raise LabkitError("--panoptic needs a data set: say --data NAME [--split SPLIT]")
        if score is not None:
            raise LabkitError(
                "--score is for drawings; the panoptic map has the model's own limits"
            )
        _maps(model, data, split or "val", out, limit)
        return
    if data is None:
        for option, value in (("split", split), ("limit", limit)):
            if value is not None:
                raise LabkitError(f"--{option} is for a data set: say --data, too")
        if not images:
            raise LabkitError("name pictures to draw on, or a data set: --data NAME")
    _pictures(
        images or [], model, out, 0.5 if score is None else score, data, split or "val", limit
    )


def _maps(model: str, data: str, split: str, out: Path, limit: int | None) -> None:
    from labkit.datasets.named import dataset
    from labkit.distributed import lock_once, process_group, rank
    from labkit.panoptic_prediction import predict_panoptic
    from labkit.predictor import load_model

    data = data_name(data, split)
    images = dataset(data, split)
    with process_group(), lock_once(out, "labkit predict"):
        try:
            path, made = predict_panoptic(
                load_model(model),
                images,
                out,
                model_name=model,
                data_name=data,
                split=split,
                limit=limit,
            )
        except KeyboardInterrupt:
            if rank() == 0:
                typer.echo(f"\nstopped; the same command goes on from {out}", err=True)
            raise typer.Exit(130) from None
        if rank() == 0:
            typer.echo(
                f"{made} panoptic maps made now; {path} lists all\nmeasure: labkit pq --gt"
                f" GROUND_TRUTH.json --pred {path}"
            )


def _pictures(
    images: list[Path],
    model: str,
    out: Path,
    score: float,
    data: str | None,
    split: str,
    limit: int | None,
) -> None:
    from labkit.counted import counted
    from labkit.datasets.named import dataset
    from labkit.datasets.panoptic_json import write_json
    from labkit.errors import LabkitError
    from labkit.picture_list import drawing_names, from_dataset, from_files
    from labkit.predictor import Predictor
    from labkit.progress import progress_bar

    known = None if data is None else dataset(data_name(data, split), split)
    listed = from_files(images) if known is None else from_dataset(known, images, limit)
    predictor = Predictor(model)
    categories: Any = predictor.model.categories
    if known is not None:
        _compare(categories, known.categories)
    results: list[dict[str, Any]] = []
    unread: list[str] = []
    drawn: int | None = 0
    names = drawing_names(listed)
    for one, name in progress_bar(
        list(zip(listed, names, strict=True)), unit="image", disable=len(listed) < 2
    ):
        try:
            picture = one.read()
        except LabkitError as error:  # the other pictures are not lost for it
            unread.append(str(error))
            continue
        prediction = predictor(picture)
        if prediction.detections is not None:
            results += coco_results(prediction.detections, one.image_id, one.file_name, categories)
        objects = _draw(out / f"{name}.png", picture, prediction, categories, score)
        drawn = None if objects is None or drawn is None else drawn + objects
    write_json(out / "predictions.json", results)
    message = (
        f"{counted(len(listed) - len(unread), 'drawing')} and predictions.json with"
        f" {counted(len(results), 'object')} are in {out}"
    )
    if results and drawn is not None:
        message += (
            f"; {drawn} of these {'is' if drawn == 1 else 'are'} drawn, from score {score:g} on"
            " (--score)"
        )
    typer.echo(message)
    if unread:
        raise LabkitError("; ".join(unread))


def _compare(known: Categories, wanted: Categories) -> None:
    """Warn of ids that mean one class for the model and another in the data."""
    import warnings

    names = {category.id: category.name for category in wanted if category.isthing}
    other = [c for c in known if c.isthing and names.get(c.id, c.name) != c.name]
    if other:
        warnings.warn(
            f"category {other[0].id} is {other[0].name} for the model and {names[other[0].id]} in"
            " the data: the results have the model's categories and cannot be measured on this"
            " data",
            stacklevel=2,
        )


def coco_results(
    found: Detections, image_id: int | str, file_name: str, categories: Categories
) -> list[dict[str, Any]]:
    """COCO's results format, which ``COCO.loadRes`` reads, with names for people."""
    from labkit.metrics.coco_annotations import found_objects

    rows = []
    for entry in found_objects(found):
        category, code = categories[entry["category_id"]], entry.pop("segmentation")
        row = {
            "image_id": image_id,
            "file_name": file_name,
            **entry,
            "category_id": category.id,
            "category_name": category.name,
        }
        if code is not None:
            row["segmentation"] = {**code, "counts": code["counts"].decode("ascii")}
        rows.append(row)
    return rows


def _draw(
    path: Path, picture: Tensor, prediction: Prediction, categories: Categories, score: float
) -> int | None:
    """Draw what a model finds; how many objects of its detections, None of another output."""
    from labkit.files import whole
    from labkit.structures import Detections
    from labkit.visualize import panels

    shown: Any = prediction.panoptic or prediction.detections
    if shown is None:
        shown = prediction.semantic
    if isinstance(shown, Detections):
        keep = shown.scores >= score
        masks = None if shown.masks is None else shown.masks[keep]
        shown = Detections(shown.boxes[keep], shown.scores[keep], shown.labels[keep], masks)
    side = 6.4  # inches, at the picture's own resolution or a legible one
    figure = panels([(path.stem, picture, shown)], categories, size=side, by_object=True)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=max(100.0, picture.shape[2] / side))
    return len(shown) if isinstance(shown, Detections) else None
