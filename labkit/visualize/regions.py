"""Regions of an annotation: the mask, class and name of everything that is drawn over an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from labkit.structures import IGNORE, Categories, Detections, Panoptic

Annotation = Panoptic | Detections | Tensor | None
"""What can be drawn over an image: a panoptic map, detections, a semantic map ``(H, W)`` int64."""


@dataclass(frozen=True)
class Region:
    """One region to draw.

    Attributes:
        mask: ``(H, W)`` bool.
        label: its class.
        text: its name on the picture.
        shade: its number among the regions of its class, for :func:`labkit.colors.shaded`.
        number: of its object; None for stuff and for the classes of a semantic map.
    """

    mask: np.ndarray
    label: int
    text: str
    shade: int
    number: int | None = None


def regions(annotation: Annotation, categories: Categories, *, scores: bool = True) -> list[Region]:
    """List the regions of an annotation in drawing order (later ones on top).

    Args:
        annotation: what to draw.
        categories: the classes of its labels.
        scores: whether detections' names include their scores; ground truth has none.
    """
    if annotation is None:
        return []
    annotation = annotation.to("cpu")
    if isinstance(annotation, Panoptic):
        return _panoptic_regions(annotation, categories)
    if isinstance(annotation, Detections):
        return _detection_regions(annotation, categories, scores)
    semantic = annotation.numpy()
    present = [int(v) for v in np.unique(semantic) if v != IGNORE]
    return [Region(semantic == v, v, categories[v].name, 0) for v in present]


def _panoptic_regions(panoptic: Panoptic, categories: Categories) -> list[Region]:
    ids = panoptic.ids.numpy()
    seen: dict[int, int] = {}
    drawn = []
    for number, segment in enumerate(panoptic.segments):
        category = categories[segment.label]
        nth = seen[segment.label] = seen.get(segment.label, -1) + 1
        text = f"{category.name} {segment.id}" if category.isthing else category.name
        text += " (crowd)" if segment.iscrowd else ""
        object_number = number if category.isthing else None
        drawn.append(Region(ids == segment.id, segment.label, text, nth, object_number))
    return [r for r in drawn if r.mask.any()]


def _detection_regions(found: Detections, categories: Categories, scores: bool) -> list[Region]:
    if found.masks is None:
        return []
    drawn = []
    for i, (mask, label) in enumerate(zip(found.masks, found.labels.tolist(), strict=True)):
        text = f"{categories[label].name} {f'{found.scores[i]:.2f}' if scores else i + 1}"
        drawn.append(Region(mask.numpy(), label, text, i, i))
    return [r for r in reversed(drawn) if r.mask.any()]  # the best score on top
