"""Views of stored predictions: panels and metrics at any threshold, without new model runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labkit.errors import LabkitError
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_matching import PanopticResult
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.structures import Detections, Panoptic, Prediction
from labkit.widgets.compare.image_source import SourceImage
from labkit.widgets.compare.model_runs import Answer
from labkit.widgets.compare.outcomes import (
    SegmentOutcomes,
    gt_layer,
    in_neutral,
    labels_in_gt_classes,
    outcome_layer,
    segment_outcomes,
    with_outcomes,
)
from labkit.widgets.compare.thresholds import Result
from labkit.widgets.viewer.segment_layers import Layer, layer_of


@dataclass(frozen=True)
class View:
    """One model at one threshold.

    Attributes:
        title: title of the panel.
        message: why there is nothing to show; then all else is None.
        answer: the model's prediction.
        score: score threshold.
        shown: panoptic map or detections at the threshold.
        layer: the same as a panel.
        outcome: outcomes against the ground truth.
        quality: panoptic quality on this image.
        ap: mask AP on this image, of all detections, independent of the threshold.
        reason: why the prediction cannot be compared with the ground truth.
    """

    title: str
    message: str | None = None
    answer: Answer | None = None
    score: float | None = None
    shown: Result | None = None
    layer: Layer | None = None
    outcome: SegmentOutcomes | None = None
    quality: PanopticResult | None = None
    ap: float | None = None
    reason: str = ""


class Comparison:
    """Predictions of several models for one image, viewed without running the models again.

    Args:
        picture: the image.
        answers: predictions by title, or a message why there is none.
    """

    def __init__(self, picture: SourceImage, answers: Mapping[str, Answer | str]) -> None:
        self.picture = picture
        self.answers = dict(answers)
        self._ap: dict[str, float | None] = {}

    def views(self, score: float | None = None) -> list[View]:
        """View of each model at a threshold; None for each model's own."""
        return [self._view(title, answer, score) for title, answer in self.answers.items()]

    def layers(self, views: Sequence[View], outcomes: bool = False) -> list[Layer]:
        """Panels of the ground truth, if there is one, and of each model.

        Args:
            views: the result of :meth:`views`.
            outcomes: color segments by TP, FP and FN, if there is ground truth.
        """
        gt = None if self.picture.target is None else gt_layer(self.picture)
        panels = [] if gt is None else [in_neutral(gt) if outcomes else gt]
        nothing = np.zeros(tuple(self.picture.image.shape[1:]), np.int32)
        for view in views:
            layer = view.layer or Layer(view.title, nothing, {}, view.message)
            if gt is not None and view.outcome is not None:
                layer = with_outcomes(layer, view.outcome, gt)
                if outcomes:
                    layer = outcome_layer(layer, view.outcome, gt)
                elif view.quality is not None:
                    layer = replace(
                        layer, title=f"{view.title}: PQ {100 * view.quality.all.pq:.1f}"
                    )
            elif outcomes and view.message is None:
                layer = replace(layer, title=f"{view.title}: no difference, see below")
            panels.append(layer)
        return panels

    def _view(self, title: str, answer: Answer | str, score: float | None) -> View:
        if isinstance(answer, str):
            return View(title, answer)
        shown, own = answer.at(score), answer.threshold.own
        used = own if own is None or score is None else score
        categories = answer.categories or self.picture.categories
        assert categories is not None
        try:
            layer = layer_of(shown, categories, title)
        except LabkitError as error:  # boxes alone cannot be drawn as segments
            return View(title, str(error))
        view = View(title, None, answer, used, shown, layer)
        wanted = self.picture.categories
        if self.picture.target is None or wanted is None:
            return view
        if title not in self._ap:
            self._ap[title] = self._average_precision(answer)
        view = replace(view, ap=self._ap[title])
        try:
            outcome = segment_outcomes(shown, self.picture, answer.categories)
        except LabkitError as error:
            return replace(view, reason=str(error))
        quality = None
        if isinstance(shown, Panoptic):
            measured = PanopticQuality(wanted)
            measured.update(shown, self.picture.target["panoptic"])
            quality = measured.compute()
        return replace(view, outcome=outcome, quality=quality)

    def _average_precision(self, answer: Answer) -> float | None:
        """Mask AP; None without detections, with other classes, or without objects."""
        found, target, wanted = (
            answer.prediction.detections,
            self.picture.target,
            self.picture.categories,
        )
        assert target is not None
        assert wanted is not None
        if found is None or found.masks is None:
            return None
        try:
            labels = labels_in_gt_classes(found, answer.categories, wanted)
        except LabkitError:
            return None
        keep = np.flatnonzero(labels >= 0)
        mine = Detections(
            found.boxes[keep],
            found.scores[keep],
            found.labels.new_tensor(labels[keep]),
            found.masks[keep],
        )
        measured = COCOAP(wanted)
        measured.update(Prediction(mine), target, self.picture.annotations)
        result = measured.compute().segm
        return None if result is None or math.isnan(result.ap) else result.ap
