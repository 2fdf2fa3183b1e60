"""Predictions for pictures as they come: any size, from a file or from memory.

    predictor = Predictor("mask_rcnn_R_50_FPN_3x")  # of `labkit zoo list`, or a training's folder
    prediction = predictor("street.jpg")

Weights from elsewhere expect the preprocessing that they were trained with: which size, which order
of the colours, what is subtracted. It is part of the model's conventions and happens here.
"""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.datasets.image_files import read_image
from labkit.engine.batch_predict import predict
from labkit.engine.precision import autocast
from labkit.errors import LabkitError
from labkit.models.backbones.fold_norms import fold_norms
from labkit.models.detector import Detector
from labkit.models.preprocessing import Conventions
from labkit.structures import Prediction
from labkit.system.distributed import default_device


class Predictor:
    """A model ready to be asked about pictures.

    The model is prepared for speed without other numbers than rounding brings: frozen batch norms
    are folded and maps are channels-last.

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

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8] | Tensor | str | Path) -> Prediction:
        """Predict.

        Args:
            image: a file; or RGB uint8, ``(H, W, 3)`` as an array or ``(3, H, W)`` as a tensor.

        Returns:
            The prediction at the picture's own size, on the CPU.

        Raises:
            LabkitError: the file cannot be read, or the array is not such a picture.
        """
        picture = as_picture(image)
        if not isinstance(self.model, Detector):
            return predict(self.model, [picture], self.precision)[0]
        size = (picture.shape[1], picture.shape[2])
        resized = resize(picture, self.model.config.conventions).to(self.device)
        with autocast(self.device, self.precision):
            predictions = self.model.infer([resized], [size])
        return predictions[0].to("cpu")


def load_model(source: str | Path) -> nn.Module:
    """The trained model of a folder of ``labkit train``, or of a name of ``labkit zoo list``."""
    from labkit.checkpoints import model_zoo
    from labkit.checkpoints.run_folder import load_run
    from labkit.checkpoints.shipped import shipped

    path = Path(source)
    if path.exists():
        return load_run(path)
    own = shipped()
    return own[str(source)].load() if str(source) in own else model_zoo.load(str(source))


def as_picture(image: NDArray[np.uint8] | Tensor | str | Path) -> Tensor:
    """Any accepted picture as ``(3, H, W)`` uint8 RGB.

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
    return tensor.cpu()  # where it is resized


def resize(picture: Tensor, conventions: Conventions) -> Tensor:
    """The picture ``(3, H, W)`` at the size that the weights expect, uint8 or float."""
    if conventions.resize is None:
        return picture
    height, width = picture.shape[1:]
    if conventions.resize == "opencv":
        scale = conventions.scale((height, width))
        pixels = picture.permute(1, 2, 0).numpy().astype(np.float32)
        large = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(large).permute(2, 0, 1)
    if conventions.resize == "float":
        scale = min(conventions.short / min(height, width), conventions.long / max(height, width))
        return F.interpolate(
            picture[None].float(),
            scale_factor=scale,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=True,
        )[0]
    size = _whole_size(width, height, conventions)
    if size == (width, height):
        return picture
    resized = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
        size, Image.Resampling.BILINEAR
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _whole_size(width: int, height: int, conventions: Conventions) -> tuple[int, int]:
    """(width, height) under "whole" and "floor"; a flat picture keeps a row."""
    small, large = min(width, height), max(width, height)
    if conventions.resize == "floor":
        short = conventions.short
        if large / small * short > conventions.long:
            short = max(round(conventions.long * small / large), 1)
        return short * width // small, short * height // small
    sides = [side * conventions.short / small for side in (width, height)]
    if max(sides) > conventions.long:
        sides = [side * conventions.long / max(sides) for side in sides]
    return max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)
