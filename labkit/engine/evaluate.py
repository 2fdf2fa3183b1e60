"""Measuring a model on a data set: every metric that predictions and ground truth allow."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    source: Any = dataset.dataset if isinstance(dataset, InMemory) else dataset  # the same items
    ap = COCOAP(categories, source.area_limits if isinstance(source, Shapes) else AREAS)
    confusion, quality = ConfusionMatrix(categories), PanopticQuality(categories)
    model_categories: Categories = getattr(model, "categories", categories)
    label_of = map_labels(model_categories, categories)
    same_categories = _names(model_categories) == _names(categories)
    predictor = Predictor(model, device, precision)
    num_maps = torch.zeros(2, dtype=torch.int64)  # semantic and panoptic ones that were compared
    share = range(rank(), count, world_size())
    for i in progress_bar(share, unit="image", disable=not progress or rank() > 0, leave=False):
        image, target = dataset[i]
        prediction = predictor(image)
        if need_panoptic:
            _check_panoptic(prediction, target)
        if prediction.detections is not None:
            detections = _relabelled(prediction.detections, label_of)
            annotations = source.annotations(i) if isinstance(source, CocoInstances) else None
            ap.update(Prediction(detections), target, annotations)
        maps: list[tuple[Any, Any, Any]] = [
            (confusion, prediction.semantic, target.get("semantic")),
            (quality, prediction.panoptic, target.get("panoptic")),
        ]
        for k, (metric, predicted, gt) in enumerate(maps):
            if predicted is None or gt is None:
                continue
            if not same_categories:
                raise LabkitError(f"the model knows {model_categories}, the data has {categories}")
            metric.update(predicted, gt)
            num_maps[k] += 1
    for metric in (ap, confusion, quality):
        metric.all_reduce()
    # Whether maps were compared, not whether anything was counted: all pixels may be unlabelled.
    num_semantic, num_panoptic = sum_over_processes(num_maps).tolist()
    result = Evaluation(
        count,
        ap.compute() if len(ap) else None,
        confusion.compute() if num_semantic else None,
        quality.compute() if num_panoptic else None,
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


def map_labels(model_categories: Categories, data_categories: Categories) -> Tensor:
    """The data's label of each thing label of the model ``(T,)``, -1 where the data has none.

    Raises:
        LabkitError: the model does not know a thing of the data, or its id means something else.
    """
    names = {category.id: category.name for category in model_categories if category.isthing}
    for category in (c for c in data_categories if c.isthing):
        if names.get(category.id) != category.name:
            there = f"{category.id} is {names[category.id]}" if category.id in names else "not it"
            raise LabkitError(
                f"the data has the class {category.id} {category.name}; the model knows {there}."
                " Measure it on data with the classes that it was trained on"
            )
    label_of = {data_categories[label].id: label for label in data_categories.things}
    labels = [label_of.get(model_categories[k].id, -1) for k in model_categories.things]
    return torch.tensor(labels, dtype=torch.int64)


def _relabelled(detections: Detections, label_of: Tensor) -> Detections:
    """Detections with the data's labels, without those of classes that the data lacks."""
    labels = label_of[detections.labels]  # (N,)
    relabelled = replace(detections, labels=labels)
    return relabelled[labels >= 0]


def _names(categories: Categories) -> list[tuple[int, str]]:
    return [(category.id, category.name) for category in categories]
