"""COCO's AP by pycocotools, the number that papers report.

How it is defined can be read in ``average_precision``; here are also crowds, whose detections count
neither way, and the sizes. Masks are kept as run-length codes, so memory stays small.
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
"""Pixels: COCO's objects are small up to the first, large from the second on."""


@dataclass(frozen=True)
class APResult:
    """AP in 0..1; nan where there is no true object.

    Attributes:
        ap: mean over IoU 0.50, 0.55, .., 0.95 and over the classes.
        ap50, ap75: at these IoU alone.
        small, medium, large: of objects of these areas.
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
    """Results of boxes and masks; ``segm`` is None where an image came without masks.

    Attributes:
        bbox: of the boxes.
        segm: of the masks.
    """

    bbox: APResult
    segm: APResult | None


@dataclass
class _Image:
    """What one image adds: true objects and detections, as COCO annotations without ids."""

    truth: list[Annotation]
    found: list[Annotation]
    has_masks: bool


class COCOAP:
    """Collects detections image by image; ``compute`` gives the numbers at any time.

    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Notebook 03, section
    3.7.

    For a data-parallel evaluation every process updates with its share of the images, then each
    calls ``all_reduce`` once.

    Args:
        categories: the things among them are the classes.
        areas: (small up to, large from) in pixels; other than COCO's for images of another scale.
    """

    def __init__(self, categories: Categories, areas: tuple[float, float] = AREAS) -> None:
        self.categories, self.areas = categories, areas
        self._images: dict[int | str, _Image] = {}

    def __len__(self) -> int:
        """How many images were counted."""
        return len(self._images)

    def update(
        self,
        prediction: Prediction,
        target: Target,
        annotations: Sequence[Annotation] | None = None,
    ) -> None:
        """Count one image.

        Args:
            prediction: with ``detections``.
            target: its objects; crowds are taken from its panoptic map, where it has one.
            annotations: instead of the target's objects, those of a COCO file, for its exact
                boxes, areas and crowds: ``category_id``, ``bbox``, ``area``, ``iscrowd`` and
                ``segmentation`` as a run-length code.

        Raises:
            LabkitError: no detections, a label that is no thing, masks of another size than the
                target's, or an image that was counted already.
        """
        image_id, found = target["image_id"], prediction.detections
        if found is None:
            raise LabkitError(f"image {image_id}: the prediction has no detections to measure")
        if image_id in self._images:
            raise LabkitError(f"image {image_id} was counted already; ids must differ")
        for name, labels in (("prediction", found.labels), ("target", target["labels"])):
            wrong = (labels < 0) | (labels >= len(self.categories.things))
            if bool(wrong.any()):
                raise LabkitError(
                    f"image {image_id}: {name} has label {int(labels[wrong][0])}; things are"
                    f" 0..{len(self.categories.things) - 1}"
                )
        if found.masks is not None and found.masks.shape[1:] != target["masks"].shape[1:]:
            raise LabkitError(
                f"image {image_id}: detected masks are {tuple(found.masks.shape[1:])}, true ones"
                f" {tuple(target['masks'].shape[1:])} (height, width)"
            )
        if annotations is None:
            truth = gt_annotations(target, self.categories.things)
        else:
            truth = [
                {**a, "category_id": self.categories.label(a["category_id"])} for a in annotations
            ]
        self._images[image_id] = _Image(
            truth, detection_annotations(found), found.masks is not None
        )

    def merge(self, other: COCOAP) -> None:
        """Add what ``other`` has counted.

        Raises:
            LabkitError: other categories, or an image that both have.
        """
        if other.categories != self.categories:
            raise LabkitError("merge: the two COCOAP have different categories")
        self._add(other._images)

    def all_reduce(self) -> None:
        """Share what the processes of ``torch.distributed`` have; alone, change nothing.

        Call it once, after the last update: afterwards every process holds the whole.
        """
        if not dist.is_initialized():
            return
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, self._images)
        self._images = {}
        for share in shares:
            self._add(share)

    def _add(self, images: dict[int | str, _Image]) -> None:
        twice = self._images.keys() & images.keys()
        if twice:
            raise LabkitError(f"image {min(map(str, twice))} was counted twice; ids must differ")
        self._images |= images

    def compute(self) -> COCOResult:
        """The numbers of everything counted; nan where nothing was."""
        masks = all(image.has_masks for image in self._images.values())
        return COCOResult(self._evaluate("bbox"), self._evaluate("segm") if masks else None)

    def _evaluate(self, kind: str) -> APResult:
        # By image id, so that equal scores are in the same order however many processes there were.
        order = sorted(self._images, key=lambda i: (isinstance(i, str), i))
        images = [self._images[i] for i in order]
        classes = range(len(self.categories.things))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            truth = _coco([image.truth for image in images], classes)
            found = _coco([image.found for image in images], classes, area_of=kind)
            evaluation = COCOeval(truth, found, kind)
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
    """An index as if read from a file; detections get the area of what is measured, as there."""
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
        # Run-length codes know their size, so nobody asks for the images'.
        "images": [{"id": n, "height": 0, "width": 0} for n in range(len(images))],
        "categories": [{"id": label} for label in classes],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")
