"""Predictions for images of any size, from files or from memory, one or many.

    predictor = Predictor("mask_rcnn_R_50_FPN_3x")  # of `labkit zoo list`, or a run's folder
    prediction = predictor("street.jpg")
    first, second = predictor(["street.jpg", "yard.jpg"])

Published weights expect the preprocessing that they were trained with: the size, the order of the
colour channels, what is subtracted. It belongs to the model and happens in its ``forward``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.datasets.image_files import read_image
from labkit.engine.precision import autocast
from labkit.errors import LabkitError
from labkit.models.backbones.frozen_norm import fold_norms
from labkit.models.preprocess import Batch, preprocess
from labkit.structures import Prediction, Target
from labkit.system.distributed import default_device, rank, world_size
from labkit.system.progress_bars import progress_bar

Image = NDArray[np.uint8] | Tensor | str | Path
"""A file; or RGB uint8, ``(H, W, 3)`` as an array or ``(3, H, W)`` as a tensor."""


@dataclass(frozen=True)
class RawPrediction:
    """A network's output for one image, before ``postprocess``.

    A detector's own score threshold, NMS and limit of detections are applied already.

    Attributes:
        output: of the model's ``predict``.
        batch: the image as the network sees it.
    """

    output: Any
    batch: Batch


class Predictor:
    """A model ready to predict.

    The model is prepared for speed; only rounding changes: frozen batch norms are folded and maps
    are channels-last.

    Args:
        model: a model; or where to get one: a name of ``labkit zoo list``, or a folder that
            ``labkit train`` wrote.
        device: default: the GPU where there is one.
        precision: of the layers, see :func:`labkit.engine.precision.autocast`.

    Raises:
        LabkitError: there is no such folder or name, or its file is not here yet.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        device: torch.device | None = None,
        precision: str | None = None,
    ) -> None:
        # A model that was passed keeps its own norms and its training mode.
        model = copy.deepcopy(model) if isinstance(model, nn.Module) else load_model(model)
        fold_norms(model)
        device = device or default_device()
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.device, self.precision = device, precision

    @overload
    def __call__(self, images: Image) -> Prediction: ...

    @overload
    def __call__(self, images: list[Image] | tuple[Image, ...]) -> list[Prediction]: ...

    @torch.no_grad()
    def __call__(self, images: Any) -> Prediction | list[Prediction]:
        """Predict.

        Args:
            images: one image, or a list of images that go through the network together.

        Returns:
            The prediction in pixels of the original image, on the CPU; for a list, one for each.

        Raises:
            LabkitError: a file cannot be read, or an array is not such an image.
        """
        several = isinstance(images, list | tuple)
        inputs = [as_image(image).to(self.device) for image in (images if several else [images])]
        with autocast(self.device, self.precision):
            predictions = [prediction.to("cpu") for prediction in self.model(inputs)]
        return predictions if several else predictions[0]

    @torch.no_grad()
    def raw(self, image: Image) -> RawPrediction:
        """The network's output for one image, for :meth:`postprocess` at several thresholds."""
        model: Any = self.model
        with autocast(self.device, self.precision):
            inputs = [as_image(image).to(self.device)]
            batch = preprocess(inputs, model.config.preprocessing)
            return RawPrediction(model.predict(model.backbone(batch.tensor), batch), batch)

    @torch.no_grad()
    def postprocess(self, raw: RawPrediction, score_thresh: float | None = None) -> Prediction:
        """The prediction, on the CPU, at a score threshold; None: the model's own.

        Args:
            raw: of :meth:`raw`.
            score_thresh: for detectors and panoptic models only.
        """
        model: Any = self.model
        options = {} if score_thresh is None else {"score_thresh": score_thresh}
        (prediction,) = model.postprocess(raw.output, raw.batch, **options)
        on_cpu: Prediction = prediction.to("cpu")
        return on_cpu

    def predict_dataset(
        self, dataset: Any, batch_size: int = 8, progress: bool = True
    ) -> Iterator[tuple[Prediction, Target]]:
        """Predictions and targets of a data set, one by one, so that memory stays flat.

        Under ``torchrun`` each process yields its own share (every N-th image); metrics are then
        summed with their ``all_reduce``.

        Args:
            dataset: map-style, items ``(image, target)``.
            batch_size: images per forward pass.
            progress: show a bar.
        """
        share = range(rank(), len(dataset), world_size())
        bar = progress_bar(
            total=len(share), unit="image", disable=not progress or rank() > 0, leave=False
        )
        with bar:
            for start in range(0, len(share), batch_size):
                indices = share[start : start + batch_size]
                images, targets = zip(*(dataset[i] for i in indices), strict=True)
                yield from zip(self(images), targets, strict=True)
                bar.update(len(indices))


def load_model(source: str | Path, categories: Path | None = None) -> nn.Module:
    """Load a trained model, in evaluation mode.

    Args:
        source: a folder of ``labkit train``, a name of ``labkit zoo list``, or a checkpoint file of
            another project (:mod:`labkit.checkpoints.own_files`).
        categories: a COCO JSON file with the classes of a checkpoint file that does not name them.

    Raises:
        LabkitError: there is no such model, or it cannot be loaded; ``categories`` are given for a
            model that knows its own.
    """
    from labkit.checkpoints import model_zoo, own_files
    from labkit.checkpoints.run_folder import load_run
    from labkit.checkpoints.shipped import shipped

    path = Path(source)
    if own_files.is_checkpoint(path):
        known = None if categories is None else own_files.read_categories(categories)
        return own_files.load_file(path, known)
    if categories is not None:
        raise LabkitError(f"{source} knows its categories; they are for checkpoint files")
    if path.exists():
        return load_run(path)
    own = shipped()
    return own[str(source)].load() if str(source) in own else model_zoo.load(str(source))


def as_image(image: Image) -> Tensor:
    """Any accepted image as ``(3, H, W)`` uint8 RGB.

    Raises:
        LabkitError: the file cannot be read, or the array is not RGB uint8.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    tensor = torch.as_tensor(image)
    if not isinstance(image, Tensor) and tensor.ndim == 3:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.dtype != torch.uint8 or 0 in tensor.shape:
        raise LabkitError(
            "image: expected RGB uint8, an array (H, W, 3) or a tensor (3, H, W); "
            f"got {type(image).__name__} {tuple(image.shape)} {image.dtype}"
        )
    return tensor
