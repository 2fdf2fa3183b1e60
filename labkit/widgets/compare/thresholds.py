"""The score threshold of each method, moved without running its network again.

- A panoptic model: which objects enter its map; the map is made again from the raw output.
- A detector: which objects are shown.

A semantic model has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labkit.engine.predictor import Predictor, RawPrediction
from labkit.models.mask2former.eomt import EoMT
from labkit.models.mask2former.mask2former import Mask2Former
from labkit.models.mask2former.maskformer import MaskFormer
from labkit.models.upsnet.upsnet import UPSNet
from labkit.structures import IGNORE, Detections, Panoptic, Prediction, Segment

DRAWN_SCORE = 0.5
"""What ``labkit predict`` draws of a model that only lists objects."""

LOWEST = 0.05
"""No method lists objects below it."""

Result = Panoptic | Detections
"""What is shown of a model: its map, or the objects of one that makes no map."""


@dataclass(frozen=True)
class Threshold:
    """A method's threshold for one image.

    Attributes:
        own: the method's own, as it was published; None where it has none.
        meaning: what it does, in words.
        at: the result at any value.
    """

    own: float | None
    meaning: str
    at: Callable[[float], Result]


def threshold_of(
    predictor: Predictor, raw: RawPrediction | None, prediction: Prediction
) -> Threshold:
    """The threshold of a model for one image.

    Args:
        predictor: of the model.
        raw: the network's output, of a model that makes panoptic maps.
        prediction: at the model's own threshold.
    """
    detections = prediction.detections
    if raw is not None and prediction.panoptic is not None:
        model: Any = predictor.model
        config = model.config
        if isinstance(model, UPSNet):
            config = config.panoptic
        elif isinstance(model, MaskFormer | Mask2Former | EoMT):
            config = config.inference

        def panoptic(score: float) -> Panoptic:
            made = predictor.postprocess(raw, score).panoptic
            assert made is not None
            return made

        meaning = "objects above it enter the panoptic map, which is made again when it changes"
        return Threshold(config.score_thresh, meaning, panoptic)
    if detections is None:
        assert prediction.semantic is not None
        classes = _as_panoptic(prediction.semantic)
        return Threshold(None, "none: it finds no objects", lambda score: classes)
    return Threshold(
        DRAWN_SCORE,
        "objects that reach it are shown",
        lambda score: detections[detections.scores >= score],
    )


def _as_panoptic(semantic: Tensor) -> Panoptic:
    """A semantic map with one segment for each class."""
    labels = [int(label) for label in semantic.unique() if label != IGNORE]
    ids = torch.where(semantic == IGNORE, 0, semantic + 1).to(torch.int32)
    return Panoptic(ids, [Segment(label + 1, label) for label in labels])
