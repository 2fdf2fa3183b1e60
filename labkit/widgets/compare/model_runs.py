"""Models asked about images: once, followed and stopped if the reader likes, and remembered."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labkit.engine.panoptic_files import fingerprint
from labkit.engine.predictor import Predictor, RawPrediction, load_model
from labkit.structures import Categories, Prediction
from labkit.widgets.compare.image_source import SourceImage
from labkit.widgets.compare.thresholds import Result, Threshold, threshold_of

QUICK = 3.0
"""Seconds: a model that took less is asked once more, and the second time counts. The first run
also pays for what is done once in a process."""

KEPT_BYTES = 2**30
"""Answers about earlier images are forgotten, oldest first, beyond so much memory."""

Model = str | Path | nn.Module
"""A name of ``labkit zoo list``, a folder of ``labkit train``, or a model."""


class Cancelled(Exception):
    """The reader stopped a run."""


@dataclass(frozen=True)
class Watch:
    """How a run is followed and stopped.

    Attributes:
        progress: told the share of the network's layers that have begun, 0 to 1.
        cancelled: asked before each layer whether to stop.
    """

    progress: Callable[[float], None] = lambda share: None
    cancelled: Callable[[], bool] = lambda: False

    def check(self) -> None:
        """Stop the run if this was requested.

        Raises:
            Cancelled: if cancellation was requested.
        """
        if self.cancelled():
            raise Cancelled


@dataclass(frozen=True)
class Answer:
    """What a model says about one image.

    Attributes:
        prediction: as :class:`~labkit.engine.predictor.Predictor` gives it.
        categories: of its labels; None for a model that does not say.
        parameters: how many numbers were learnt.
        seconds: that the image took, preprocessing included.
        threshold: of the method.
        raw: the network's output, from which the threshold makes other results.
    """

    prediction: Prediction
    categories: Categories | None
    parameters: int
    seconds: float
    threshold: Threshold
    raw: RawPrediction | None = None

    def at(self, score: float | None = None) -> Result:
        """What is shown at a threshold; None is the method's own."""
        own, panoptic = self.threshold.own, self.prediction.panoptic
        if panoptic is not None and (score is None or score == own):
            return panoptic
        return self.threshold.at((own or 0.0) if score is None else score)


class Memory:
    """Models, loaded once, and what they said about each image; safe to share by threads."""

    def __init__(self) -> None:
        # Only those with a name: a model in memory is the reader's, and may be trained further.
        self._models: dict[str, tuple[Predictor, int]] = {}
        self._answers: OrderedDict[str, dict[str, Answer]] = OrderedDict()  # by image
        self._one_runs = threading.Lock()

    def known(self, model: Model, picture: SourceImage) -> Answer | None:
        """The answer, if the model has been asked."""
        return self._answers.get(picture.key, {}).get(identity(model))

    def ask(self, model: Model, picture: SourceImage, watch: Watch | None = None) -> Answer:
        """The answer, made now if need be.

        Raises:
            Cancelled: if cancellation was requested.
            LabkitError: the model cannot be loaded.
        """
        watch, name = watch or Watch(), identity(model)
        known = self.known(model, picture)
        if known is not None:
            return known
        with self._one_runs:
            watch.check()
            answer = _ask(*self._loaded(model, name), picture.image, watch)
            self._answers.setdefault(picture.key, {})[name] = answer
            self._answers.move_to_end(picture.key)
            self._forget()
            return answer

    def _loaded(self, model: Model, name: str) -> tuple[Predictor, int]:
        if isinstance(model, nn.Module):
            return _load(model)
        if name not in self._models:
            with torch.random.fork_rng():  # fresh weights are drawn before the trained ones come
                self._models[name] = _load(load_model(model))
        return self._models[name]

    def _forget(self) -> None:
        sizes = [sum(map(_bytes, of.values())) for of in self._answers.values()]
        while len(sizes) > 1 and sum(sizes) > KEPT_BYTES:
            self._answers.popitem(last=False)
            sizes.pop(0)


def identity(model: Model) -> str:
    """Tells models apart: one that was trained further is another one."""
    if isinstance(model, nn.Module):
        return fingerprint(model)
    path = Path(model)
    times = [file.stat().st_mtime_ns for file in path.glob("*")] if path.is_dir() else []
    return f"{model} {max(times, default=0)}"


def _load(model: nn.Module) -> tuple[Predictor, int]:
    # Counted before the predictor folds norms into biases.
    return Predictor(model), sum(parameter.numel() for parameter in model.parameters())


def _ask(predictor: Predictor, parameters: int, image: Tensor, watch: Watch) -> Answer:
    model = predictor.model
    with _watched(model, watch):
        raw, prediction, seconds = _timed(predictor, image)
        if seconds < QUICK:
            raw, prediction, seconds = _timed(predictor, image)
    watch.check()
    threshold = threshold_of(predictor, raw, prediction)
    categories = getattr(model, "categories", None)
    return Answer(prediction, categories, parameters, seconds, threshold, raw)


def _timed(predictor: Predictor, image: Tensor) -> tuple[RawPrediction | None, Prediction, float]:
    start = time.perf_counter()
    if not hasattr(predictor.model, "postprocess"):  # not one of labkit's models
        prediction = predictor(image)
        return None, prediction, time.perf_counter() - start
    raw = predictor.raw(image)
    prediction = predictor.postprocess(raw)
    return raw, prediction, time.perf_counter() - start


@contextmanager
def _watched(model: nn.Module, watch: Watch) -> Iterator[None]:
    """Tell the watch about every layer that begins, and stop there when it says so."""
    layers = [layer for layer in model.modules() if not any(True for _ in layer.children())]
    begun: set[nn.Module] = set()

    def before(layer: nn.Module, _: Any) -> None:
        watch.check()
        begun.add(layer)
        watch.progress(len(begun) / len(layers))

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bytes(answer: Answer) -> int:
    prediction, raw = answer.prediction, answer.raw
    held = [
        prediction.semantic,
        None if prediction.detections is None else prediction.detections.masks,
    ]
    if raw is not None:
        values = vars(raw.output).values() if hasattr(raw.output, "__dict__") else [raw.output]
        held += [t for value in values for t in (value if isinstance(value, list) else [value])]
    return sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))
