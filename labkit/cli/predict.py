"""``labkit predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
        str | None, typer.Option(help="With --panoptic: a data set as for `labkit train`.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --panoptic: which part of the data, val.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --panoptic: only the first so many images.")
    ] = None,
) -> None:
    """Draw what a model finds on pictures, or write its panoptic maps of a data set.

    Pictures: a drawing NAME.png of each, and predictions.json, all objects
    as COCO results.

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
    for option, value in (("data", data), ("split", split), ("limit", limit)):
        if value is not None:
            raise LabkitError(f"--{option} is for a data set: add --panoptic")
    if not images:
        raise LabkitError("name pictures to draw on, or a data set: --panoptic --data NAME")
    _pictures(images, model, out, 0.5 if score is None else score)


def _maps(model: str, data: str, split: str, out: Path, limit: int | None) -> None:
    from labkit.datasets.named import dataset
    from labkit.distributed import lock_once, process_group, rank
    from labkit.panoptic_prediction import predict_panoptic
    from labkit.predictor import load_model

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


def _pictures(images: list[Path], model: str, out: Path, score: float) -> None:
    from labkit.datasets.panoptic_json import write_json
    from labkit.errors import LabkitError
    from labkit.predictor import Predictor, as_picture
    from labkit.progress import progress_bar

    stems = [path.stem for path in images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise LabkitError(f"two images are named {twice[0]}; their results would overwrite another")
    predictor = Predictor(model)
    categories: Any = predictor.model.categories
    results: list[dict[str, Any]] = []
    unread: list[str] = []
    for path in progress_bar(images, unit="image", disable=len(images) < 2):
        try:
            picture = as_picture(path)
        except LabkitError as error:  # the other pictures are not lost for it
            unread.append(str(error))
            continue
        prediction = predictor(picture)
        if prediction.detections is not None:
            results += coco_results(prediction.detections, path, categories)
        _draw(out / f"{path.stem}.png", picture, prediction, categories, score)
    write_json(out / "predictions.json", results)
    done = len(images) - len(unread)
    typer.echo(f"{_counted(done, 'picture')} and {_counted(len(results), 'object')} are in {out}")
    if unread:
        raise LabkitError("; ".join(unread))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def coco_results(found: Detections, path: Path, categories: Categories) -> list[dict[str, Any]]:
    """COCO's results format, which ``COCO.loadRes`` reads, with names for people.

    COCO's pictures are named by their ids; other pictures have their name for an id.
    """
    from labkit.metrics.coco_annotations import found_objects

    rows = []
    for entry in found_objects(found):
        category, code = categories[entry["category_id"]], entry.pop("segmentation")
        row = {
            "image_id": int(path.stem) if path.stem.isdecimal() else path.stem,
            "file_name": path.name,
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
) -> None:
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
    figure = panels([(path.stem, picture, shown)], categories, size=side)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=max(100.0, picture.shape[2] / side))
