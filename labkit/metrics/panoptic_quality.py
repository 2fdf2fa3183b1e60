"""Panoptic quality (PQ, SQ, RQ) of maps in memory; for files see ``panoptic_quality_files``."""

from __future__ import annotations

import numpy as np
import torch

from labkit.errors import LabkitError
from labkit.metrics.panoptic_checks import checked_overlaps
from labkit.metrics.panoptic_matching import (
    Matches,
    PanopticResult,
    SegmentTable,
    count_matches,
    match_segments,
    summarize,
)
from labkit.structures import Categories, Panoptic
from labkit.system.distributed import sum_over_processes


class PanopticQuality:
    """Panoptic quality metric: ``update`` with each image, then ``compute``.

    A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Notebook 06, section 6.4.

    Segment areas are counted in the maps. Crowd and void are treated as in panopticapi, see
    ``panoptic_matching``. For a data-parallel evaluation every process updates with its share of
    the images, then each calls ``all_reduce`` once.

    Attributes:
        categories: the classes of the labels.
        counts: ``(C, 4)`` float64 per category: sum of IoU over the matches, TP, FP, FN.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.counts = np.zeros((len(categories), 4))

    def update(self, prediction: Panoptic, target: Panoptic) -> None:
        """Add one image.

        Raises:
            LabkitError: the maps differ in size, a map's ids and segments differ, or a label is
                not one of the categories.
        """
        gt, pred = _tables(prediction, target, self.categories)
        matches = _match(prediction, target, gt, pred)
        self.counts += count_matches(matches, gt, pred, len(self.categories))

    def all_reduce(self) -> None:
        """Sum the counts over all processes of ``torch.distributed``; without it, do nothing.

        Call it once, after the last update. Then every process holds the total.
        """
        self.counts = sum_over_processes(torch.from_numpy(self.counts)).numpy()

    def compute(self) -> PanopticResult:
        """Compute PQ, SQ and RQ of all categories, things and stuff, and of each category.

        Values are in 0..1; nan for a category that does not occur and for a mean over none.
        """
        return summarize(self.counts, ((c.id, c.name, c.isthing) for c in self.categories))


def match_panoptic(prediction: Panoptic, target: Panoptic, categories: Categories) -> Matches:
    """Match the segments of two panoptic maps: TP, FP and FN.

    Raises:
        LabkitError: as :meth:`PanopticQuality.update`.
    """
    return _match(prediction, target, *_tables(prediction, target, categories))


def _match(prediction: Panoptic, target: Panoptic, gt: SegmentTable, pred: SegmentTable) -> Matches:
    overlaps = checked_overlaps(
        target.ids.detach().cpu().numpy(),
        prediction.ids.detach().cpu().numpy(),
        gt,
        pred,
        where=("target", "prediction"),
        names=("ids", "segments"),
    )
    return match_segments(overlaps, gt, pred)


def _tables(
    prediction: Panoptic, target: Panoptic, categories: Categories
) -> tuple[SegmentTable, SegmentTable]:
    gt = _table(target, "target", categories)
    return gt, _table(prediction, "prediction", categories)


def _table(panoptic: Panoptic, where: str, categories: Categories) -> SegmentTable:
    segments = panoptic.segments
    for s in segments:
        if not 0 <= s.label < len(categories):
            raise LabkitError(
                f"{where}: segment {s.id} has label {s.label}; labels are 0..{len(categories) - 1}"
            )
    return SegmentTable(
        np.array([s.id for s in segments], np.int32),
        np.array([s.label for s in segments], np.int64),
        None,
        np.array([s.iscrowd for s in segments], bool),
    )
