"""Predictions on videos and on a camera's frames, for ``labkit predict``."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from labkit.engine.predictor import Predictor
    from labkit.structures import Prediction
    from labkit.visualize import Annotation

CAMERA = 0
CAMERA_FILE = "webcam.mp4"


def require_video_options(
    others: list[str], webcam: bool, panoptic: bool, data: str | None
) -> None:
    """Refuse what cannot be combined with a video or the webcam.

    Args:
        others: what was named beside the videos.
        webcam, panoptic, data: of the command line.

    Raises:
        LabkitError: an option or a name does not fit.
    """
    from labkit.errors import LabkitError

    what = "the webcam" if webcam else "a video"
    if panoptic or data is not None:
        option = "--panoptic" if panoptic else "--data"
        raise LabkitError(
            f"{option} is for images; {what} is written as a video, which shows the panoptic maps"
            " of a model that makes them"
        )
    if others:
        raise LabkitError(f"{others[0]}: {what} and images need a call each")


def target_files(videos: list[Path], out: Path, overwrite: bool) -> list[Path]:
    """List the file to write for each video.

    Raises:
        LabkitError: two would be the same file, or one is there already or is a video to read.
    """
    from labkit.errors import LabkitError

    targets: list[Path] = []
    for video in videos:
        target = out / f"{video.stem}.mp4"
        if target.resolve() in {one.resolve() for one in videos}:
            raise LabkitError(f"{target}: the result would replace the video; name another --out")
        if target in targets:
            raise LabkitError(f"{video}: its result and another video's would both be {target}")
        if target.exists() and not overwrite:
            raise LabkitError(
                f"{target}: there already. Replace with --overwrite, or name another --out"
            )
        targets.append(target)
    return targets


def shown_annotation(prediction: Prediction, score: float) -> Annotation:
    """What a drawing of a prediction shows: the panoptic map, or detections from a score on."""
    from labkit.structures import Detections

    shown: Any = prediction.panoptic or prediction.detections
    if shown is None:
        shown = prediction.semantic
    if isinstance(shown, Detections):
        keep = shown.scores >= score
        masks = None if shown.masks is None else shown.masks[keep]
        shown = Detections(shown.boxes[keep], shown.scores[keep], shown.labels[keep], masks)
    return shown


def predict_video(
    source: Path | int, target: Path, predictor: Predictor, score: float, limit: int | None
) -> None:
    """Draw the predictions on every frame and write them as a video.

    Ctrl-C ends the video: it is the way to stop a camera.

    Args:
        source: a file, or the number of a camera.
        target: the file to write; of a camera it plays at the speed of the recording, however
            long each prediction takes.
        predictor: the model.
        score: smallest score of the detections that are drawn.
        limit: number of frames; None for all.

    Raises:
        LabkitError: the video cannot be read or written; there is no camera.
    """
    from labkit.engine.video import VideoReader, VideoWriter
    from labkit.system.message_text import counted
    from labkit.system.progress_bars import progress_bar
    from labkit.visualize import annotated

    categories: Any = predictor.model.categories
    frames, stopped = 0, False
    with VideoReader(source) as video, VideoWriter(target, video.size, video.fps) as written:
        total = video.count if limit is None else min(limit, video.count or limit)
        start = time.monotonic()
        try:
            for frame in progress_bar(islice(video, limit), total=total, unit="frame"):
                shown = shown_annotation(predictor(frame), score)
                pixels = annotated(frame, shown, categories, by_object=True)
                written.write(pixels)
                frames += 1
                if isinstance(source, int):
                    written.write_until(pixels, time.monotonic() - start)
        except KeyboardInterrupt:
            stopped = True
    if frames:
        typer.echo(f"{counted(frames, 'frame')} drawn: {target}")
    if isinstance(source, Path):
        if stopped:
            typer.echo(f"stopped after {frames} of {counted(total or 0, 'frame')}", err=True)
            raise typer.Exit(130)
        if total and frames < total:
            typer.echo(
                f"{source}: announces {counted(total, 'frame')}; the others cannot be decoded",
                err=True,
            )
