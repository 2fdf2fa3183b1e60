"""Panoptic maps of a whole data set, in files that every panoptic evaluation reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labkit.datasets.coco.panoptic_writer import PanopticWriter
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.structures import Categories
from labkit.system.distributed import rank, sum_over_processes, world_size
from labkit.system.progress_bars import progress_bar


def predict_panoptic(
    model: nn.Module,
    dataset: Any,
    out: str | Path,
    *,
    model_name: str,
    data_name: str,
    split: str,
    limit: int | None = None,
    progress: bool = True,
    device: torch.device | None = None,
    precision: str | None = None,
) -> tuple[Path, int]:
    """Write ``out/panoptic_SPLIT.json`` and ``out/panoptic_SPLIT/*.png``.

    What is there already is not made again, so the same call resumes after an interruption, and
    with a larger limit. Under ``torchrun`` the processes share the images.

    Args:
        model: with ``categories``, and panoptic maps in its predictions.
        dataset: map-style, items ``(image, target)``; of the target only ``image_id`` is used.
        out: a folder of this run alone.
        model_name, data_name: how the user calls them; with the weights and the number of images
            they tell runs apart.
        split: the name of the files.
        limit: only the first so many images.
        progress: show a bar.
        device: default: the GPU where there is one.
        precision: of the layers, see :func:`labkit.engine.precision.autocast`.

    Returns:
        The JSON, and how many maps were made now.

    Raises:
        LabkitError: the folder holds files of another run, there are no images, the model makes no
            panoptic maps, or a map cannot be written.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if count < 1:
        raise LabkitError(f"{data_name}, {split}: there are no images")
    categories: Categories = model.categories  # type: ignore[assignment]  # nn.Module's attributes
    run = {
        "model": model_name,
        "weights": fingerprint(model),
        "data": data_name,
        f"images of {split}": len(dataset),
    }
    writer = PanopticWriter(Path(out), split, run, categories, rank())
    mine = [i for i in range(rank(), count, world_size()) if i not in writer]
    predictor = Predictor(model, device, precision)
    try:
        hidden = not progress or rank() > 0 or not mine
        for i in progress_bar(mine, unit="image", disable=hidden):
            image, target = dataset[i]
            panoptic = predictor(image).panoptic
            if panoptic is None:
                raise LabkitError(
                    f"{model_name}: this model makes no panoptic maps; take one that does, such as"
                    " panoptic_fpn_tiny"
                )
            writer.add(i, target["image_id"], panoptic)
    finally:
        writer.close()
    made = int(sum_over_processes(torch.tensor(len(mine))))  # also waits for the other processes
    return writer.finish(count) if rank() == 0 else writer.json_path, made


def fingerprint(model: nn.Module) -> str:
    """Sixteen digits that differ for models with other weights or settings."""
    digest = hashlib.sha256(repr((type(model).__name__, getattr(model, "config", None))).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
