"""COCO's average precision (AP) by pycocotools, the number that papers report.

``average_precision`` shows the definition. This module adds crowds, whose detections are ignored,
and AP by object size. Masks are kept as run-length codes, so memory stays small.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from labkit.errors import LabkitError
from labkit.metrics.coco_annotations import Annotation, detection_annotations, gt_annotations
from labkit.structures import Categories, Prediction, Target

AREAS = (32.0**2, 96.0**2)
"""Areas in pixels: objects are small up to the first and large from the second on."""


@dataclass(frozen=True)
class APResult:
    """AP in 0..1; nan without ground-truth objects.

    Attributes:
        ap: mean over IoU 0.50, 0.55, .., 0.95 and over the classes.
        ap50, ap75: AP at this IoU alone.
        small, medium, large: AP of objects of these areas.
        per_class: ``ap`` of each thing class.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    per_class: tuple[float, ...]


@dataclass(frozen=True)
class COCOResult:
    """AP of boxes and masks.

    Attributes:
        bbox: AP of the boxes.
        segm: AP of the masks; None if the detections of an image have no masks.
    """

    bbox: APResult
    segm: APResult | None


@dataclass
class _Image:
    """Ground truth and detections of one image, as COCO annotations without ids."""

    gt: list[Annotation]
    detections: list[Annotation]
    has_masks: bool


class COCOAP:
    """AP metric: ``update`` with each image, then ``compute``.

    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Notebook 03, section
    3.9.

    In a data-parallel evaluation, every process updates with its share of the images and then calls
    ``all_reduce`` once.

    Args:
        categories: their things are the classes.
        areas: (small up to, large from) in pixels; differs from COCO's for images of another scale.
    """

    def __init__(self, categories: Categories, areas: tuple[float, float] = AREAS) -> None:
        self.categories, self.areas = categories, areas
        self._images: dict[int | str, _Image] = {}

    def __len__(self) -> int:
        """Number of images so far."""
        return len(self._images)

    def update(
        self,
        prediction: Prediction,
        target: Target,
        annotations: Sequence[Annotation] | None = None,
    ) -> None:
        """Add one image.

        Args:
            prediction: with ``detections``.
            target: ground truth; crowds are taken from its panoptic map, if it has one.
            annotations: annotations of a COCO file that replace the target's objects, for the
                file's exact boxes, areas and crowds: ``category_id``, ``bbox``, ``area``,
                ``iscrowd`` and ``segmentation`` as a run-length code.

        Raises:
            LabkitError: no detections, a label that is not a thing, masks of another size than the
                target's, or a repeated image.
        """
        image_id, detections = target["image_id"], prediction.detections
        if detections is None:
            raise LabkitError(f"image {image_id}: the prediction has no detections to measure")
        if image_id in self._images:
            raise LabkitError(f"image {image_id} was counted already; ids must differ")
        for name, labels in (("prediction", detections.labels), ("target", target["labels"])):
            wrong = (labels < 0) | (labels >= len(self.categories.things))
            if bool(wrong.any()):
                raise LabkitError(
                    f"image {image_id}: {name} has label {int(labels[wrong][0])}; things are"
                    f" 0..{len(self.categories.things) - 1}"
                )
        masks = detections.masks
        if masks is not None and masks.shape[1:] != target["masks"].shape[1:]:
            raise LabkitError(
                f"image {image_id}: detected masks are {tuple(masks.shape[1:])},"
                f" ground-truth masks {tuple(target['masks'].shape[1:])} (height, width)"
            )
        if annotations is None:
            gt = gt_annotations(target, self.categories.things)
        else:
            gt = [
                {**a, "category_id": self.categories.label(a["category_id"])} for a in annotations
            ]
        self._images[image_id] = _Image(gt, detection_annotations(detections), masks is not None)

    def all_reduce(self) -> None:
        """Gather the images of all processes of ``torch.distributed``; without it, do nothing.

        Call it once, after the last update. Then every process holds all images.

        Raises:
            LabkitError: two processes have the same image.
        """
        if not dist.is_initialized():
            return
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, self._images)
        self._images = {}
        for share in shares:
            if twice := self._images.keys() & share.keys():
                first = min(map(str, twice))
                raise LabkitError(f"image {first} was counted twice; ids must differ")
            self._images |= share

    def compute(self) -> COCOResult:
        """Compute AP over all images."""
        masks = all(image.has_masks for image in self._images.values())
        return COCOResult(self._evaluate("bbox"), self._evaluate("segm") if masks else None)

    def _evaluate(self, kind: str) -> APResult:
        # Sorted by image id, so that the order of equal scores does not depend on the processes.
        order = sorted(self._images, key=lambda i: (isinstance(i, str), i))
        images = [self._images[i] for i in order]
        classes = range(len(self.categories.things))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            gt = _coco([image.gt for image in images], classes)
            detections = _coco([image.detections for image in images], classes, area_of=kind)
            evaluation = COCOeval(gt, detections, kind)
            small, large = self.areas
            evaluation.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
            evaluation.evaluate()
            evaluation.accumulate()
        # (thresholds, recalls, classes, areas, numbers of detections), -1 without objects
        precision: NDArray[np.float64] = evaluation.eval["precision"][..., -1]
        everywhere = precision[..., 0]
        return APResult(
            _mean(everywhere),
            _mean(everywhere[0]),
            _mean(everywhere[5]),
            _mean(precision[..., 1]),
            _mean(precision[..., 2]),
            _mean(precision[..., 3]),
            tuple(_mean(everywhere[:, :, label]) for label in classes),
        )


def _coco(images: Sequence[Sequence[Annotation]], classes: range, area_of: str = "") -> COCO:
    """Build a COCO index as from files; detections get the area of their box or mask."""
    annotations: list[Annotation] = []
    for number, entries in enumerate(images):
        for entry in entries:
            # Copied, because pycocotools writes into them. Id 0 would mean "no match" to it.
            row = {"iscrowd": 0, **entry, "image_id": number, "id": len(annotations) + 1}
            if area_of == "bbox":
                row["area"] = row["bbox"][2] * row["bbox"][3]
            elif area_of == "segm":
                row["area"] = float(coco_mask.area(row["segmentation"]))
            annotations.append(row)
    coco = COCO()
    coco.dataset = {
        # Run-length codes contain their size, so the images' sizes are never used.
        "images": [{"id": n, "height": 0, "width": 0} for n in range(len(images))],
        "categories": [{"id": label} for label in classes],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")
