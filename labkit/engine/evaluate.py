"""Measuring a model on a data set: every metric that its predictions and the truth allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.metrics.coco_ap import AREAS, COCOAP, COCOResult
from labkit.metrics.panoptic_matching import PanopticResult
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix, SemanticResult
from labkit.structures import Categories, Detections, Prediction, Target
from labkit.system.distributed import rank, sum_over_processes, world_size
from labkit.system.progress_bars import progress_bar


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None where the model or the data set has no such part.

    Attributes:
        images: how many.
        detection: AP of boxes and masks.
        semantic: mIoU and its relatives.
        panoptic: PQ.
    """

    images: int
    detection: COCOResult | None
    semantic: SemanticResult | None
    panoptic: PanopticResult | None


def evaluate(
    model: nn.Module,
    dataset: Any,
    limit: int | None = None,
    progress: bool = True,
    need_panoptic: bool = False,
    device: torch.device | None = None,
    precision: str | None = None,
) -> Evaluation:
    """Measure ``model`` as the :class:`~labkit.engine.predictor.Predictor` uses it.

    Under ``torchrun`` the processes share the images and all return the whole result. Objects of
    Shapes are small, medium or large by its own limits; a :class:`CocoInstances` is measured
    against its file's annotations, crowds included.

    Args:
        model: any labkit model; its ``categories`` may be more than the data set's. A model without
            them predicts the data set's labels.
        dataset: map-style with ``categories``, items ``(image, target)``.
        limit: only the first so many images.
        progress: show a bar.
        need_panoptic: refuse a model or a data set without panoptic maps.
        device: default: the GPU where there is one.
        precision: of the layers, see :func:`labkit.engine.precision.autocast`.

    Raises:
        LabkitError: the model does not know a class of the data, or for maps has other categories
            than the data, there are no images, or nothing that the model predicts is in the
            targets.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if count < 1:
        raise LabkitError("evaluate: there are no images to measure on")
    categories: Categories = dataset.categories
    source: Any = dataset.dataset if isinstance(dataset, InMemory) else dataset
    areas = source.area_limits if isinstance(source, Shapes) else AREAS
    detection = COCOAP(categories, areas)
    confusion, quality = ConfusionMatrix(categories), PanopticQuality(categories)
    known: Categories = getattr(model, "categories", categories)
    labels = translation(known, categories)
    predictor = Predictor(model, device, precision)
    same = [(c.id, c.name) for c in known] == [(c.id, c.name) for c in categories]
    maps = torch.zeros(2, dtype=torch.int64)  # how many semantic and panoptic ones were compared
    mine = range(rank(), count, world_size())
    for i in progress_bar(mine, unit="image", disable=not progress or rank() > 0, leave=False):
        image, target = dataset[i]
        prediction = predictor(image)
        if need_panoptic:
            _check_panoptic(prediction, target)
        if prediction.detections is not None:
            found = Prediction(_translated(prediction.detections, labels))
            in_file = isinstance(source, CocoInstances)
            rows = source.annotations(target["image_id"]) if in_file else None
            detection.update(found, target, rows)
        pairs: list[tuple[Any, Any, Any]] = [
            (confusion, prediction.semantic, target.get("semantic")),
            (quality, prediction.panoptic, target.get("panoptic")),
        ]
        for k, (metric, predicted, true) in enumerate(pairs):
            if predicted is None or true is None:
                continue
            if not same:
                raise LabkitError(f"the model knows {known}, the data has {categories}")
            metric.update(predicted, true)
            maps[k] += 1
    for metric in (detection, confusion, quality):
        metric.all_reduce()
    # Whether maps were compared, not whether anything was counted: all pixels may be unlabelled.
    semantics, panoptics = sum_over_processes(maps).tolist()
    result = Evaluation(
        count,
        detection.compute() if len(detection) else None,
        confusion.compute() if semantics else None,
        quality.compute() if panoptics else None,
    )
    if result.detection is None and result.semantic is None and result.panoptic is None:
        raise LabkitError("evaluate: nothing that the model predicts is in this data set's targets")
    return result


def _check_panoptic(prediction: Prediction, target: Target) -> None:
    if prediction.panoptic is None:
        raise LabkitError(
            "this model makes no panoptic maps; take one that does, such as panoptic_fpn_tiny, or"
            " measure what it makes without --panoptic"
        )
    if "panoptic" not in target:
        raise LabkitError(
            "this data set has no panoptic maps to compare with; take one that has, such as"
            " coco_panoptic:DIR, or measure without --panoptic"
        )


def translation(known: Categories, wanted: Categories) -> Tensor:
    """The label in ``wanted`` of each thing label of ``known``, -1 where it has none.

    Raises:
        LabkitError: a thing of ``wanted`` is not known, or an id means something else.
    """
    names = {category.id: category.name for category in known if category.isthing}
    for category in (c for c in wanted if c.isthing):
        if names.get(category.id) != category.name:
            there = f"{category.id} is {names[category.id]}" if category.id in names else "not it"
            raise LabkitError(
                f"the data has the class {category.id} {category.name}; the model knows {there}."
                " Measure it on data with the classes that it was trained on"
            )
    label_of = {wanted[label].id: label for label in wanted.things}
    return torch.tensor([label_of.get(known[k].id, -1) for k in known.things], dtype=torch.int64)


def _translated(found: Detections, labels: Tensor) -> Detections:
    of_data = labels[found.labels]  # (N,)
    keep = of_data >= 0
    masks = None if found.masks is None else found.masks[keep]
    return Detections(found.boxes[keep], found.scores[keep], of_data[keep], masks)
