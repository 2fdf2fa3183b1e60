"""Panoptic quality of one image: its matches, and the contribution of each segment.

The headless functions of :class:`labkit.widgets.PQMatching`. All numbers come from
:mod:`labkit.metrics`: the matches from :func:`~labkit.metrics.panoptic_quality.match_panoptic`, the
scores from :class:`~labkit.metrics.panoptic_quality.PanopticQuality`.

PQ is a mean over the n categories that occur, so a match of category c adds
``IoU / (TP_c + FP_c / 2 + FN_c / 2) / n`` to it; these shares sum to PQ. An FP or FN adds nothing
to the sum and one half to the denominator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from torch import Tensor

from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import PanopticResult
from labkit.metrics.panoptic_quality import PanopticQuality, match_panoptic
from labkit.structures import VOID, Categories, Panoptic
from labkit.widgets.viewer.segment_layers import Layer, SegmentInfo, draw_panel, layer_of

Offsets = Mapping[int, tuple[int, int]]
"""Offsets (right, down) in pixels by predicted segment; the last segment is on top."""

COLUMNS = ("class", "sum of IoU", "TP", "FP", "FN", "SQ", "RQ", "PQ", "PQ before")


@dataclass(frozen=True)
class SegmentContribution:
    """Status of a segment and its contribution to PQ.

    Attributes:
        kind: matched (TP), predicted without a match (FP), ground truth without a match (FN), or
            not counted: a crowd, or a prediction mostly on void or crowd.
        partner: id of its match; else of the segment of its category in the other map with the
            highest IoU; None if none shares a pixel.
        iou: IoU with the partner.
        share: contribution to the PQ of the image, 0..1.
    """

    kind: Literal["TP", "FP", "FN", "not counted"]
    partner: int | None = None
    iou: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Matching:
    """The matches of one image.

    Attributes:
        target: the ground truth.
        prediction: the predicted map.
        true: contribution of each ground-truth segment, by id.
        predicted: contribution of each predicted segment, by id.
        quality: PQ, SQ and RQ of this image.
    """

    target: Panoptic
    prediction: Panoptic
    true: dict[int, SegmentContribution]
    predicted: dict[int, SegmentContribution]
    quality: PanopticResult


def matching(prediction: Panoptic, target: Panoptic, categories: Categories) -> Matching:
    """Match predicted and ground-truth segments and compute their contributions.

    Raises:
        LabkitError: as :meth:`PanopticQuality.update`.
    """
    metric = PanopticQuality(categories)
    metric.update(prediction, target)
    quality = metric.compute()
    found = match_panoptic(prediction, target, categories)
    true_ids, predicted_ids = ([s.id for s in p.segments] for p in (target, prediction))
    true: dict[int, SegmentContribution] = {}
    predicted: dict[int, SegmentContribution] = {}
    for i, missed in zip(true_ids, found.missed.tolist(), strict=True):
        true[i] = SegmentContribution("FN" if missed else "not counted")
    for i, wrong in zip(predicted_ids, found.wrong.tolist(), strict=True):
        predicted[i] = SegmentContribution("FP" if wrong else "not counted")
    for (t, p), iou in zip(found.rejected.tolist(), found.rejected_iou.tolist(), strict=True):
        g, q = true_ids[t], predicted_ids[p]
        if iou > true[g].iou:
            true[g] = SegmentContribution(true[g].kind, q, iou)
        if iou > predicted[q].iou:
            predicted[q] = SegmentContribution(predicted[q].kind, g, iou)
    for t, p, iou in zip(found.gt.tolist(), found.pred.tolist(), found.iou.tolist(), strict=True):
        own = quality.per_class[target.segments[t].label]
        share = iou / (own.tp + own.fp / 2 + own.fn / 2) / quality.all.n
        true[true_ids[t]] = SegmentContribution("TP", predicted_ids[p], iou, share)
        predicted[predicted_ids[p]] = SegmentContribution("TP", true_ids[t], iou, share)
    return Matching(target, prediction, true, predicted, quality)


def move(panoptic: Panoptic, offsets: Offsets) -> Panoptic:
    """Move some segments of a map over the others; the pixels they leave become void.

    Pixels outside the image are lost; a segment without pixels is removed.

    Raises:
        LabkitError: a segment does not exist.
    """
    known = {s.id for s in panoptic.segments}
    before = panoptic.ids.numpy(force=True)
    height, width = before.shape
    ids = before.copy()
    for i in offsets:
        if i not in known:
            raise LabkitError(f"cannot move segment {i}: the prediction has no such segment")
        ids[before == i] = VOID
    for i, (dx, dy) in offsets.items():
        rows, columns = np.nonzero(before == i)
        rows, columns = rows + dy, columns + dx
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        ids[rows[inside], columns[inside]] = i
    present = set(np.unique(ids).tolist())
    return Panoptic(torch.from_numpy(ids), [s for s in panoptic.segments if s.id in present])


def layers(found: Matching, categories: Categories) -> tuple[Layer, Layer]:
    """Build the viewer's two panels, with TP, FP or FN in the names and matches linked."""
    true = layer_of(found.target, categories, "ground truth")
    predicted = layer_of(found.prediction, categories, "prediction")
    pq = found.quality.all.pq
    sides = ((true, found.true, predicted), (predicted, found.predicted, true))
    panels = []
    for own, fates, other in sides:
        info = {}
        for i, plain in own.info.items():
            fate = fates[i]
            iou = f" {fate.iou:.2f}" if fate.kind == "TP" else ""
            tag = f"{plain.text}: {fate.kind}{iou}"
            note = _note(fate, other.info[fate.partner].text if fate.partner else "", pq)
            pair = (i if own is true else fate.partner) if fate.kind == "TP" else None
            info[i] = SegmentInfo(tag, plain.color, plain.isthing, plain.score, note, pair)
        panels.append(Layer(own.title, own.ids, info))
    return panels[0], panels[1]


def _note(fate: SegmentContribution, partner: str, pq: float) -> str:
    if fate.kind == "not counted":
        return "a crowd, or mostly on void or crowd: neither TP, FP nor FN"
    if fate.kind == "TP":
        return (
            f"matches {partner}: IoU {fate.iou:.3f} > 0.5 · adds {100 * fate.share:.1f}"
            f" of PQ {100 * pq:.1f}"
        )
    closest = f"closest is {partner}: IoU {fate.iou:.3f} ≤ 0.5" if partner else "nothing overlaps"
    return f"no match, {closest} · adds 0 of PQ {100 * pq:.1f}, and ½ to the denominator"


def table(quality: PanopticResult, before: PanopticResult) -> list[tuple[str, ...]]:
    """Table rows for :data:`COLUMNS`: the classes that occur, then their mean, in percent."""
    rows = []
    for now, then in zip(quality.per_class, before.per_class, strict=True):
        if now.tp + now.fp + now.fn:
            counts = (f"{now.iou_sum:.3f}", str(now.tp), str(now.fp), str(now.fn))
            rows.append((now.name, *counts, *map(_percent, (now.sq, now.rq, now.pq, then.pq))))
    means = (quality.all.sq, quality.all.rq, quality.all.pq, before.all.pq)
    return [*rows, ("mean", "", "", "", "", *map(_percent, means))]


def draw_pq_matching(
    image: Tensor,
    target: Panoptic,
    prediction: Panoptic,
    categories: Categories,
    offsets: Offsets | None = None,
) -> Figure:
    """Draw ground truth and prediction side by side, with matches and a table of PQ.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        target: the ground truth.
        prediction: the predicted map.
        categories: names and colours.
        offsets: predicted segments to move first.
    """
    start = matching(prediction, target, categories)
    found = matching(move(prediction, offsets), target, categories) if offsets else start
    rows = table(found.quality, start.quality)
    panel = 4.0 * image.shape[1] / image.shape[2] + 0.3
    low = 0.22 * (len(rows) + 1) + 0.2
    figure = Figure(figsize=(8.4, panel + low), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[panel, low])
    for column, layer in enumerate(layers(found, categories)):
        draw_panel(figure.add_subplot(grid[0, column]), image, layer)
    axes = figure.add_subplot(grid[1, :])
    axes.set_axis_off()
    drawn = axes.table(rows, colLabels=COLUMNS, cellLoc="right", bbox=Bbox.unit())
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for cell in drawn.get_celld().values():
        cell.set_linewidth(0.3)
    return figure


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
