"""``labkit predict``: drawings, COCO results or panoptic maps of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.options import CATEGORIES, DEVICE, MODEL, PRECISION, THREADS, computing, data_name
from labkit.cli.predict_video import (
    CAMERA,
    CAMERA_FILE,
    predict_video,
    require_video_options,
    shown_annotation,
    target_files,
)
from labkit.engine.image_paths import find_images
from labkit.system.folder_lock import locked

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from labkit.engine.image_list import ImageEntry
    from labkit.structures import Categories, Detections, Prediction

RESULTS = "predictions.json"


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images: files, folders, patterns such as 'photos/*.jpg'; or videos.",
            metavar="[IMAGE...]",
        ),
    ] = None,
    *,
    model: Annotated[str, typer.Option(help=MODEL)],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score threshold of the drawings, 0.5.")
    ] = None,
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="Write panoptic maps, of images or a data set.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set as for `labkit train`: predict its images, or the IMAGEs among them,"
            " with its ids."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --data: split of the data, val.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --data, videos or --webcam: use the first N images or frames only."
        ),
    ] = None,
    webcam: Annotated[
        bool, typer.Option("--webcam", help="Record this computer's camera until Ctrl-C.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results of images.")
    ] = False,
    categories: Annotated[Path | None, CATEGORIES] = None,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[int | None, THREADS] = None,
    precision: Annotated[str | None, PRECISION] = None,
) -> None:
    """Draw a model's detections on images, or write panoptic maps of images or a data set.

    Writes a drawing NAME.png of each image, and predictions.json, all
    detections as COCO results. With --data, the results have the data set's
    ids, so that pycocotools can compare them with its annotations. With
    --panoptic, writes each image's panoptic map in COCO's format, NAME.png,
    and its segments, NAME.json.

    Of a video, or of the camera with --webcam, writes a video NAME.mp4 with the
    drawing of each frame.

    With --panoptic --data, writes panoptic_SPLIT.json and panoptic_SPLIT/*.png
    in COCO's format, for `labkit pq` and panopticapi; after Ctrl-C, run the
    same command again to resume.

    Several processes: torchrun --nproc-per-node N -m labkit predict ...
    """
    from labkit.engine.image_paths import split_videos
    from labkit.errors import LabkitError

    threshold = 0.5 if score is None else score
    videos, others = split_videos(images or [])
    if videos or webcam:
        if webcam:
            videos, others = [], [*map(str, videos), *others]
        require_video_options(others, webcam, panoptic, data)
        place = computing(device, threads, precision)
        with locked(out, "labkit predict"):
            _videos(videos, model, categories, out, overwrite, threshold, limit, place, precision)
        return
    if panoptic and score is not None:
        raise LabkitError("--score is for drawings; panoptic maps use the model's own thresholds")
    if panoptic and data is not None:
        if images:
            raise LabkitError("--panoptic needs either images or a data set (--data), not both")
        if overwrite:
            raise LabkitError(
                "--overwrite is for images; the maps of a data set are resumed: to predict them"
                " again, delete the folder or name another one"
            )
        place = computing(device, threads, precision)
        _maps(model, categories, data, split or "val", out, limit, place, precision)
        return
    if data is None:
        for option, value in (("split", split), ("limit", limit)):
            if value is not None:
                raise LabkitError(f"--{option} is for a data set: add --data")
        if not images:
            raise LabkitError("name images, or a data set: --data NAME")
    place = computing(device, threads, precision)
    known, listed = _listed(find_images(images or []), data, split or "val", limit)
    with locked(out, "labkit predict"):
        _require_new(out, listed, panoptic, overwrite)
        _images(listed, known, model, categories, out, panoptic, threshold, place, precision)


def _listed(
    paths: list[Path], data: str | None, split: str, limit: int | None
) -> tuple[Categories | None, list[ImageEntry]]:
    """List the images, and return the categories of their data set, if any."""
    from labkit.datasets.registry import open_dataset
    from labkit.engine.image_list import from_dataset, from_files

    if data is None:
        return None, from_files(paths)
    images = open_dataset(data_name(data, split), split)
    return images.categories, from_dataset(images, paths, limit)


def _require_new(out: Path, listed: list[ImageEntry], panoptic: bool, overwrite: bool) -> None:
    """Refuse to replace input images, and earlier results without --overwrite."""
    from labkit.engine.image_list import drawing_names
    from labkit.errors import LabkitError
    from labkit.system.message_text import counted

    names = drawing_names(listed)
    files = [out / f"{name}.png" for name in names]
    files += [out / f"{name}.json" for name in names] if panoptic else [out / RESULTS]
    images = {one.path.resolve() for one in listed if one.path is not None}
    for file in files:
        if file.resolve() in images:
            raise LabkitError(f"{file}: the result would replace the image; name another --out")
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        more = f" and {counted(len(there) - 1, 'other file')}" if len(there) > 1 else ""
        raise LabkitError(
            f"{there[0]}{more}: there already. Replace with --overwrite, or name another --out"
        )


def _maps(
    model: str,
    categories: Path | None,
    data: str,
    split: str,
    out: Path,
    limit: int | None,
    device: torch.device,
    precision: str | None,
) -> None:
    from labkit.datasets.registry import open_dataset
    from labkit.engine.panoptic_files import predict_panoptic
    from labkit.engine.predictor import load_model
    from labkit.system.distributed import lock_once, process_group, rank

    data = data_name(data, split)
    images = open_dataset(data, split)
    with process_group(device), lock_once(out, "labkit predict"):
        try:
            path, made = predict_panoptic(
                load_model(model, categories),
                images,
                out,
                model_name=model,
                data_name=data,
                split=split,
                limit=limit,
                device=device,
                precision=precision,
            )
        except KeyboardInterrupt:
            if rank() == 0:
                typer.echo(f"\nstopped; run the same command again to resume from {out}", err=True)
            raise typer.Exit(130) from None
        if rank() == 0:
            typer.echo(
                f"{made} panoptic maps made now; {path} lists all\nmeasure: labkit pq --gt"
                f" GROUND_TRUTH.json --pred {path}"
            )


def _videos(
    videos: list[Path],
    model: str,
    categories_file: Path | None,
    out: Path,
    overwrite: bool,
    score: float,
    limit: int | None,
    device: torch.device,
    precision: str | None,
) -> None:
    """Predict videos, or the camera where none is named."""
    from labkit.engine.predictor import Predictor, load_model

    sources: list[Path | int] = [*videos] or [CAMERA]
    targets = target_files(videos or [Path(CAMERA_FILE)], out, overwrite)
    predictor = Predictor(load_model(model, categories_file), device, precision)
    for source, target in zip(sources, targets, strict=True):
        predict_video(source, target, predictor, score, limit)


def _images(
    listed: list[ImageEntry],
    known: Categories | None,
    model: str,
    categories_file: Path | None,
    out: Path,
    panoptic: bool,
    score: float,
    device: torch.device,
    precision: str | None,
) -> None:
    from labkit.datasets.coco.panoptic_json import write_json
    from labkit.engine.image_list import drawing_names
    from labkit.engine.predictor import Predictor, load_model
    from labkit.errors import LabkitError
    from labkit.system.message_text import counted
    from labkit.system.progress_bars import progress_bar

    predictor = Predictor(load_model(model, categories_file), device, precision)
    categories: Any = predictor.model.categories
    if known is not None:
        _compare(categories, known)
    results: list[dict[str, Any]] = []
    unread: list[str] = []
    done, stopped = 0, False
    drawn: int | None = 0
    pairs = list(zip(listed, drawing_names(listed), strict=True))
    try:
        for one, name in progress_bar(pairs, unit="image", disable=len(pairs) < 2):
            try:
                image = one.read()
            except LabkitError as error:  # the other images are not lost for it
                unread.append(str(error))
                continue
            prediction = predictor(image)
            if panoptic:
                _write_map(out / f"{name}.json", one, prediction, categories, model)
            else:
                objects = _draw(out / f"{name}.png", image, prediction, categories, score)
                drawn = None if objects is None or drawn is None else drawn + objects
                found = prediction.detections
                if found is not None:
                    results += coco_results(found, one.image_id, one.file_name, categories)
            done += 1
    except KeyboardInterrupt:  # what was found is not lost for it
        stopped = True
    if done and panoptic:
        typer.echo(f"{counted(done, 'panoptic map')}, each a PNG and a JSON, in {out}")
    elif done:
        write_json(out / RESULTS, results)
        message = (
            f"{counted(done, 'drawing')} and {RESULTS} with {counted(len(results), 'object')}"
            f" are in {out}"
        )
        if results and drawn is not None:
            message += (
                f"; {drawn} of these {'is' if drawn == 1 else 'are'} drawn, from score {score:g}"
                " on (--score)"
            )
        typer.echo(message)
    if stopped:
        typer.echo(f"stopped after {done} of {counted(len(listed), 'image')}", err=True)
        raise typer.Exit(130)
    if unread:
        raise LabkitError("; ".join(unread))


def _write_map(
    json_path: Path, one: ImageEntry, prediction: Prediction, categories: Categories, model: str
) -> None:
    """Write the panoptic map NAME.png of an image, and its segments, NAME.json."""
    from labkit.datasets.coco.panoptic_json import write_json
    from labkit.datasets.coco.panoptic_png import to_annotation, write_png
    from labkit.errors import LabkitError

    panoptic = prediction.panoptic
    if panoptic is None:
        raise LabkitError(
            f"{model}: this model makes no panoptic maps; take one that does, such as"
            " panoptic_fpn_tiny, or leave --panoptic out"
        )
    png_path = json_path.with_name(f"{json_path.name.removesuffix('.json')}.png")
    height, width = panoptic.ids.shape
    write_png(png_path, panoptic.ids.numpy())
    image = {"id": one.image_id, "file_name": one.file_name, "height": height, "width": width}
    content = {
        "images": [image],
        "annotations": [to_annotation(panoptic, one.image_id, png_path.name, categories)],
        "categories": categories.to_coco(),
    }
    write_json(json_path, content)


def _compare(known: Categories, wanted: Categories) -> None:
    """Warn of category ids that mean different classes in the model and in the data."""
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
    """Convert detections to COCO's results format for ``COCO.loadRes``, with category names."""
    from labkit.metrics.coco_annotations import detection_annotations

    rows = []
    for entry in detection_annotations(found):
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
    path: Path, image: Tensor, prediction: Prediction, categories: Categories, score: float
) -> int | None:
    """Draw a prediction; return the number of drawn detections, None for other outputs."""
    from labkit.structures import Detections
    from labkit.system.atomic_write import atomic_write
    from labkit.visualize import panels

    shown = shown_annotation(prediction, score)
    side = 6.4  # inches, at the image's own resolution or a legible one
    figure = panels([(path.stem, image, shown)], categories, size=side, by_object=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=max(100.0, image.shape[2] / side))
    return len(shown) if isinstance(shown, Detections) else None
