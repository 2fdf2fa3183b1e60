"""How panoptic quality comes about in one picture: the matches, and what each segment adds.

The headless twin of :class:`labkit.widgets.PQMatching`. Every number is of ``labkit.metrics``: the
matches of :func:`~labkit.metrics.panoptic_quality.match_panoptic`, the score of
:class:`~labkit.metrics.panoptic_quality.PanopticQuality`.

PQ is a mean over the n categories that occur, so a match of category c adds
``IoU / (TP_c + FP_c / 2 + FN_c / 2) / n`` to it; these shares sum to PQ. A mistake adds nothing,
and half a segment to the denominator.
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
"""By how many pixels (right, down) predicted segments are moved; the last lies on top."""

COLUMNS = ("class", "sum of IoU", "TP", "FP", "FN", "SQ", "RQ", "PQ", "PQ before")


@dataclass(frozen=True)
class SegmentContribution:
    """What became of one segment.

    Attributes:
        kind: matched (TP), predicted without match (FP), true without match (FN), or not counted:
            a crowd, or a prediction mostly on void or on a crowd.
        partner: id of its match; without one, of the segment of its category in the other map that
            comes closest; None where none shares a pixel.
        iou: with the partner.
        share: what it adds to the PQ of the picture, 0..1.
    """

    kind: Literal["TP", "FP", "FN", "not counted"]
    partner: int | None = None
    iou: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Matching:
    """The matches of one picture.

    Attributes:
        target: the truth.
        prediction: what is held against it.
        true: the fate of each true segment, by id.
        predicted: the fate of each predicted segment.
        quality: PQ, SQ and RQ of this one picture.
    """

    target: Panoptic
    prediction: Panoptic
    true: dict[int, SegmentContribution]
    predicted: dict[int, SegmentContribution]
    quality: PanopticResult


def matching(prediction: Panoptic, target: Panoptic, categories: Categories) -> Matching:
    """Match the segments of a prediction and of the truth.

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
    for t, p, iou in zip(
        found.target.tolist(), found.prediction.tolist(), found.iou.tolist(), strict=True
    ):
        own = quality.per_class[target.segments[t].label]
        share = iou / (own.tp + own.fp / 2 + own.fn / 2) / quality.all.n
        true[true_ids[t]] = SegmentContribution("TP", predicted_ids[p], iou, share)
        predicted[predicted_ids[p]] = SegmentContribution("TP", true_ids[t], iou, share)
    return Matching(target, prediction, true, predicted, quality)


def move(panoptic: Panoptic, offsets: Offsets) -> Panoptic:
    """The map with some segments moved over the others; the places they leave are void.

    What leaves the picture is lost, and a segment of which nothing is left is no longer listed.

    Raises:
        LabkitError: there is no such segment.
    """
    known = {s.id for s in panoptic.segments}
    before = panoptic.ids.numpy(force=True)
    height, width = before.shape
    ids = before.copy()
    for i in offsets:
        if i not in known:
            raise LabkitError(f"there is no predicted segment {i} that could be moved")
        ids[before == i] = VOID
    for i, (dx, dy) in offsets.items():
        rows, columns = np.nonzero(before == i)
        rows, columns = rows + dy, columns + dx
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        ids[rows[inside], columns[inside]] = i
    present = set(np.unique(ids).tolist())
    return Panoptic(torch.from_numpy(ids), [s for s in panoptic.segments if s.id in present])


def layers(found: Matching, categories: Categories) -> tuple[Layer, Layer]:
    """Truth and prediction for the viewer: names with TP, FP, FN; matches belong together."""
    true = layer_of(found.target, categories, "truth")
    predicted = layer_of(found.prediction, categories, "prediction")
    pq = found.quality.all.pq
    sides = ((true, found.true, predicted), (predicted, found.predicted, true))
    told = []
    for own, fates, other in sides:
        info = {}
        for i, plain in own.info.items():
            fate = fates[i]
            iou = f" {fate.iou:.2f}" if fate.kind == "TP" else ""
            tag = f"{plain.text}: {fate.kind}{iou}"
            note = _note(fate, other.info[fate.partner].text if fate.partner else "", pq)
            pair = (i if own is true else fate.partner) if fate.kind == "TP" else None
            info[i] = SegmentInfo(tag, plain.color, plain.isthing, plain.score, note, pair)
        told.append(Layer(own.title, own.ids, info))
    return told[0], told[1]


def _note(fate: SegmentContribution, partner: str, pq: float) -> str:
    if fate.kind == "not counted":
        return "a crowd, or mostly on void or crowd: neither right nor wrong"
    if fate.kind == "TP":
        return (
            f"matches {partner}: IoU {fate.iou:.3f} > 0.5 · adds {100 * fate.share:.1f}"
            f" of PQ {100 * pq:.1f}"
        )
    closest = f"closest is {partner}: IoU {fate.iou:.3f} ≤ 0.5" if partner else "nothing overlaps"
    return f"no match, {closest} · adds 0 of PQ {100 * pq:.1f}, and ½ to the denominator"


def table(quality: PanopticResult, before: PanopticResult) -> list[tuple[str, ...]]:
    """Rows for :data:`COLUMNS`: the classes that occur, then the mean over them, in percent."""
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
    """Truth and prediction side by side, what matches, and how PQ is made of it.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        target: the truth.
        prediction: what is held against it.
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
