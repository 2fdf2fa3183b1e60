"""``labkit predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.structures import Categories, Detections, Prediction


def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE...")],
    model: Annotated[str, typer.Option(help="Folder of a run, or a name of `labkit zoo list`.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.png and predictions.json.")],
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Draw objects from this score on.")
    ] = 0.5,
) -> None:
    """Draw what a model finds, and write its objects as COCO results (all, whatever the score)."""
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
    for path in progress_bar(images, unit="image", disable=len(images) < 2):
        picture = as_picture(path)
        prediction = predictor(picture)
        if prediction.detections is not None:
            results += coco_results(prediction.detections, path, categories)
        _draw(out / f"{path.stem}.png", picture, prediction, categories, score)
    write_json(out / "predictions.json", results)
    typer.echo(f"{len(images)} pictures and {len(results)} objects are in {out}")


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
