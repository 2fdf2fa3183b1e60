"""Data structures shared by data sets, models, metrics and visualisation.

Letters in shapes: ``N`` objects, ``H`` × ``W`` pixels, ``C`` categories.

A *label* is a contiguous index into :class:`Categories`, things first: ``0 .. T-1`` are things and
``T .. C-1`` stuff, so that one numbering serves a box head (its classes are the first ``T``), a
semantic head (all ``C``) and a panoptic map. Category *ids*, which a file may choose freely, are
translated where the file is read or written and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from labkit.colors import PETROFF_10, class_colors
from labkit.errors import LabkitError

VOID = 0
"""Panoptic map outside all segments: unlabelled in a target, undecided in a prediction."""

IGNORE = 255
"""Value of a semantic map that losses and metrics ignore."""


@dataclass(frozen=True)
class Category:
    """One class: ``id`` as the data set's files write it, and whether its objects are counted.

    ``isthing`` follows COCO's field name: things have instances, stuff has regions.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int] | None = None


class Categories(Sequence[Category]):
    """The classes of a data set, things first, addressed by label (index) or by category id.

    Up to ten classes get the colours of a palette that colour-blind people can tell apart, in place
    of their file's. More than ten keep their file's colours, because no palette is safe then.

    Args:
        categories: in any order; things are moved before stuff, otherwise the order is kept.

    Raises:
        LabkitError: two categories share an id, or there are more than 255 (label 255 is IGNORE).
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        given = list(categories)
        things_first = [c for c in given if c.isthing] + [c for c in given if not c.isthing]
        colors = class_colors(
            [c.name for c in given if c.isthing], [c.name for c in given if not c.isthing]
        )
        self._items = tuple(
            replace(c, color=c.color if c.color and len(given) > len(PETROFF_10) else colors[i])
            for i, c in enumerate(things_first)
        )
        self._label_of = {c.id: label for label, c in enumerate(self._items)}
        if len(self._label_of) != len(self._items):
            ids = [c.id for c in self._items]
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise LabkitError(f"categories: id {twice[0]} is used more than once; ids must differ")
        if len(self._items) > IGNORE:
            raise LabkitError(
                f"categories: {len(self._items)} given, at most {IGNORE} fit beside ignore"
            )

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Category]:
        return iter(self._items)

    def __getitem__(self, label: Any) -> Any:
        return self._items[label]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Categories) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        names = ", ".join(f"{c.id}={c.name}{'' if c.isthing else ' (stuff)'}" for c in self)
        return f"Categories({names})"

    def has_id(self, category_id: object) -> bool:
        """Whether one of these categories has this id."""
        return category_id in self._label_of

    def label(self, category_id: int) -> int:
        """The contiguous label of a category id.

        Raises:
            LabkitError: the id is unknown.
        """
        try:
            return self._label_of[category_id]
        except KeyError:
            known = ", ".join(str(c.id) for c in self._items[:12])
            more = ", ..." if len(self) > 12 else ""
            raise LabkitError(f"unknown category id {category_id}; known: {known}{more}") from None

    @property
    def things(self) -> range:
        """Labels of the things: ``range(0, T)``."""
        return range(sum(c.isthing for c in self._items))

    @property
    def stuff(self) -> range:
        """Labels of the stuff: ``range(T, C)``."""
        return range(len(self.things), len(self))

    @property
    def names(self) -> list[str]:
        return [c.name for c in self._items]

    @property
    def colors(self) -> Tensor:
        """``(C, 3)`` uint8 RGB, one colour per label."""
        return torch.tensor([c.color for c in self._items], dtype=torch.uint8).reshape(-1, 3)

    @classmethod
    def from_coco(cls, entries: Iterable[dict[str, Any]]) -> Categories:
        """Read the ``categories`` list of a COCO JSON; those without ``isthing`` are things."""
        return cls(
            Category(
                id=int(e["id"]),
                name=str(e["name"]),
                isthing=bool(e.get("isthing", 1)),
                color=_color(e.get("color")),
            )
            for e in entries
        )

    def to_coco(self) -> list[dict[str, Any]]:
        """The ``categories`` list of a COCO panoptic JSON."""
        return [
            {
                "id": c.id,
                "name": c.name,
                "supercategory": c.name,
                "isthing": int(c.isthing),
                "color": list(c.color or ()),
            }
            for c in self._items
        ]


def _color(value: Any) -> tuple[int, int, int] | None:
    """Parse a colour, ``[r, g, b]`` or ``"#rrggbb"``; None for other values."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(v in range(256) for v in value):
        return int(value[0]), int(value[1]), int(value[2])
    return None


@dataclass
class Detections:
    """Detections in one image, best score first.

    Attributes:
        boxes: ``(N, 4)`` float32, XYXY in pixels of the image.
        scores: ``(N,)`` float32 in [0, 1].
        labels: ``(N,)`` int64, thing labels.
        masks: ``(N, H, W)`` bool, or None where the model predicts boxes only.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        """Some of the objects: ``(N,)`` bool, indices, or a slice."""
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index], masks)

    def to(self, device: torch.device | str) -> Detections:
        """Copy the detections to another device."""
        masks = None if self.masks is None else self.masks.to(device)
        return Detections(
            self.boxes.to(device), self.scores.to(device), self.labels.to(device), masks
        )


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic map.

    Attributes:
        id: its value in the map, positive and unique within the image.
        label: contiguous label.
        score: confidence of a predicted thing; None for stuff and ground truth.
        iscrowd: the region covers many objects of the class that nobody separated.
    """

    id: int
    label: int
    score: float | None = None
    iscrowd: bool = False


@dataclass
class Panoptic:
    """A panoptic map: every pixel belongs to one segment or to VOID.

    Attributes:
        ids: ``(H, W)`` int32, the segment's id, 0 = VOID.
        segments: one entry per id that occurs in ``ids``.

    Raises:
        LabkitError: wrong type or rank, or segment ids that repeat or are not positive.
    """

    ids: Tensor
    segments: list[Segment]

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype != torch.int32:
            raise LabkitError(
                f"Panoptic.ids must be (H, W) int32, got {tuple(self.ids.shape)} {self.ids.dtype}"
            )
        seen: set[int] = set()
        for segment in self.segments:
            if segment.id <= VOID:
                raise LabkitError(f"segment id {segment.id}: ids are positive ({VOID} is void)")
            if segment.id in seen:
                raise LabkitError(f"segment id {segment.id} is listed twice")
            seen.add(segment.id)

    def to(self, device: torch.device | str) -> Panoptic:
        """Copy the map to another device."""
        return Panoptic(self.ids.to(device), self.segments)

    def semantic(self) -> Tensor:
        """``(H, W)`` int64 labels, IGNORE where the map is VOID."""
        # NumPy and a table: data sets make this map for every item in every loader process, where
        # torch's threads would wait for one another longer than a small map takes.
        ids = self.ids.numpy(force=True)
        label_of = np.full(ids.max(initial=VOID) + 1, IGNORE, np.uint8)
        for segment in self.segments:
            if segment.id < len(label_of):
                label_of[segment.id] = segment.label
        return torch.from_numpy(label_of[ids].astype(np.int64)).to(self.ids.device)


@dataclass
class Prediction:
    """Output of a model for one image; parts that the model does not predict are None.

    Attributes:
        detections: objects with boxes and, for a mask model, masks.
        semantic: ``(H, W)`` int64 labels.
        panoptic: the panoptic map.
    """

    detections: Detections | None = None
    semantic: Tensor | None = None
    panoptic: Panoptic | None = None

    def to(self, device: torch.device | str) -> Prediction:
        """Copy the prediction with all its tensors to another device."""
        return Prediction(
            None if self.detections is None else self.detections.to(device),
            None if self.semantic is None else self.semantic.to(device),
            None if self.panoptic is None else self.panoptic.to(device),
        )


class Target(TypedDict):
    """Ground truth of one image: torchvision's detection dictionary and the two maps.

    Crowd regions are in ``semantic`` and ``panoptic`` but not among the objects.

    Keys:
        image_id: the data set's id of the image, a number or (Cityscapes) a string.
        boxes: ``(N, 4)`` float32 XYXY; an object's box touches its outermost pixel edges.
        labels: ``(N,)`` int64 thing labels.
        masks: ``(N, H, W)`` bool.
        semantic: ``(H, W)`` int64 labels, 255 = ignore.
        panoptic: the panoptic map.
    """

    image_id: int | str
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    semantic: NotRequired[Tensor]
    panoptic: NotRequired[Panoptic]


def target_to(target: Target, device: torch.device | str) -> Target:
    """Copy a target with all its tensors, including the panoptic map, to another device."""
    moved: Any = {
        key: value.to(device) if isinstance(value, Tensor | Panoptic) else value
        for key, value in target.items()
    }
    return moved
