"""Models' answers about one picture, looked at from any side without asking the models again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

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
        title: of its panel.
        message: why there is nothing to show; then all else is None.
        answer: what it said.
        score: its threshold.
        shown: map or objects at the threshold.
        layer: the same as a panel.
        outcome: of the comparison with the ground truth.
        quality: panoptic quality on this picture.
        ap: of masks on this picture, all objects counted, whatever the threshold.
        reason: why nothing could be compared with the ground truth, where there is one.
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
    """What several models said about a picture, looked at from any side without asking them again.

    Args:
        picture: that they saw.
        answers: by title; a text instead says why there is none.
    """

    def __init__(self, picture: SourceImage, answers: Mapping[str, Answer | str]) -> None:
        self.picture = picture
        self.answers = dict(answers)
        self._ap: dict[str, float | None] = {}

    def views(self, score: float | None = None) -> list[View]:
        """Each model at a threshold; None is each one's own."""
        return [self._view(title, answer, score) for title, answer in self.answers.items()]

    def layers(self, views: Sequence[View], outcomes: bool = False) -> list[Layer]:
        """The panels: the truth, where there is one, and each model.

        Args:
            views: of :meth:`views`.
            outcomes: colours say right, wrong and missed, where the truth allows.
        """
        truth = None if self.picture.target is None else gt_layer(self.picture)
        panels = [] if truth is None else [in_neutral(truth) if outcomes else truth]
        nothing = np.zeros(tuple(self.picture.image.shape[1:]), np.int32)
        for view in views:
            layer = view.layer or Layer(view.title, nothing, {}, view.message)
            if truth is not None and view.outcome is not None:
                layer = with_outcomes(layer, view.outcome, truth)
                if outcomes:
                    layer = outcome_layer(layer, view.outcome, truth)
                elif view.quality is not None:
                    layer = replace(
                        layer, title=f"{view.title}: PQ {100 * view.quality.all.pq:.1f}"
                    )
            elif outcomes and view.message is None:
                layer = replace(layer, title=f"{view.title}: no difference, see below")
            panels.append(layer)
        return panels

    def background(self, outcomes: bool = False) -> Tensor:
        """``(3, H, W)`` what the panels lie over: the picture; without its colours where colours
        say right and wrong, for blue over red would look as violet does."""
        image = self.picture.image
        if not outcomes:
            return image
        grey = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()

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
        """None where the model finds no objects, other classes, or there are none to find."""
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
