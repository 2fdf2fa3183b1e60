"""State of the anchor and NMS explorer, and its description in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops.nms import NMSStep, iou_with, nms_steps
from labkit.system.message_text import counted
from labkit.widgets.anchors_nms.pyramid_levels import PyramidLevel

MOST_BOXES = 20


@dataclass(frozen=True)
class Scene:
    """State of the figure.

    Attributes:
        level: the shown level.
        ratio: aspect ratio of the drawn anchors; None for all.
        cell: (row, column) of the cell whose anchors are drawn.
        boxes: ``(K, 4)`` best boxes of the level; box k, counted from 1, is ``boxes[k - 1]``.
        scores: ``(K,)``, descending.
        threshold: NMS threshold.
        steps: steps of NMS, with indices into ``boxes``.
        done: number of completed steps.
        box: number of the explained box, from 1; None for none.
    """

    level: PyramidLevel
    ratio: float | None
    cell: tuple[int, int]
    boxes: Tensor
    scores: Tensor
    threshold: float
    steps: tuple[NMSStep, ...]
    done: int
    box: int | None

    def fate(self, index: int) -> tuple[str, int | None, float]:
        """Status of a box after the completed steps.

        Returns:
            ``("kept", step, 1.0)``, ``("suppressed", step, IoU)``, steps from 1, or
            ``("waiting", None, 0.0)``.
        """
        for number, step in enumerate(self.steps[: self.done], start=1):
            if step.kept == index:
                return "kept", number, 1.0
            for gone in step.suppressed:
                if gone.index == index:
                    return "suppressed", number, gone.iou
        return "waiting", None, 0.0


def scene(
    levels: Sequence[PyramidLevel],
    *,
    level: str | None = None,
    ratio: float | None = None,
    cell: tuple[int, int] | None = None,
    count: int = 12,
    threshold: float | None = None,
    done: int | None = None,
    box: int | None = None,
) -> Scene:
    """Build the state of the explorer; the arguments are those of ``draw_anchors_nms``.

    Raises:
        LabkitError: a level, ratio, cell, step or box does not exist.
    """
    names = [one.name for one in levels]
    chosen = levels[0] if level is None else next((x for x in levels if x.name == level), None)
    if chosen is None:
        raise LabkitError(f"level: {level!r} is not one of {', '.join(names)}")
    if ratio is not None and ratio not in chosen.ratios:
        raise LabkitError(f"ratio: {ratio} is not one of {', '.join(map(str, chosen.ratios))}")
    if not 1 <= count <= MOST_BOXES:
        raise LabkitError(f"count: 1 to {MOST_BOXES} boxes can be shown, not {count}")
    best = chosen.best(count)
    threshold = chosen.nms if threshold is None else threshold
    steps = tuple(nms_steps(chosen.boxes[best], chosen.ranks[best], threshold))
    done = min(1, len(steps)) if done is None else done
    if not 0 <= done <= len(steps):
        raise LabkitError(f"done: suppression takes {counted(len(steps), 'step')} here, not {done}")
    if box is not None and not 1 <= box <= len(best):
        raise LabkitError(f"box: the boxes have numbers 1 to {len(best)}, not {box}")
    if cell is None:
        cell = chosen.cell_of(int(best[(box or 1) - 1])) if len(best) else (0, 0)
    if not all(0 <= i < n for i, n in zip(cell, chosen.shape, strict=True)):
        raise LabkitError(
            f"cell: {chosen.name} has {chosen.shape[0]} rows of {chosen.shape[1]} cells, "
            f"there is no {cell}"
        )
    boxes, scores = chosen.boxes[best], chosen.scores[best]
    return Scene(chosen, ratio, cell, boxes, scores, threshold, steps, done, box)


def sentences(shown: Scene) -> list[str]:
    """Sentences about the last step and, if a box is chosen, about its status."""
    said = [_step(shown)]
    if shown.box is not None:
        said.append(_box(shown, shown.box - 1))
    return said


def describe_scene(shown: Scene) -> str:
    """Describe the figure in words: the cell's anchors, and the boxes with their status."""
    level = shown.level
    row, column = shown.cell
    part = level.of_cell(row, column)
    lines = [
        f"Level {level.name}: {level.shape[0]} × {level.shape[1]} cells of {level.stride} pixels, "
        f"{level.per_cell} anchors each. In row {row + 1}, column {column + 1}:"
    ]
    kinds = [(size, ratio) for size in level.sizes for ratio in level.ratios]
    for (size, ratio), before, after, score in zip(
        kinds, level.anchors[part], level.boxes[part], level.scores[part].tolist(), strict=True
    ):
        if shown.ratio in (None, ratio):
            lines.append(
                f"Anchor of size {size:g}, ratio {ratio:g}, at {_span(before)}: score {score:.2f}, "
                f"moved to {_span(after)}."
            )
    lines += sentences(shown)
    for index, score in enumerate(shown.scores.tolist()):
        lines.append(f"Box {index + 1}, score {score:.2f}: {fate_text(shown, index)}.")
    return "\n".join(lines)


def fate_text(shown: Scene, index: int) -> str:
    """Status of a box in a few words."""
    kind, step, iou = shown.fate(index)
    if kind == "kept":
        return f"kept in step {step}"
    if kind == "suppressed":
        assert step is not None
        return f"suppressed by {shown.steps[step - 1].kept + 1}, IoU {iou:.2f}"
    return "waiting"


def _step(shown: Scene) -> str:
    total, threshold = len(shown.steps), shown.threshold
    if not total:
        return "This level proposes no boxes for this image."
    if shown.done == 0:
        return f"Before the first step: {len(shown.boxes)} boxes, numbered by score."
    step = shown.steps[shown.done - 1]
    kept = f"Step {shown.done} of {total} keeps the best box left, {step.kept + 1}"
    kept += f" (score {shown.scores[step.kept]:.2f})"
    if not step.suppressed:
        return f"{kept}. No box left overlaps it with an IoU above {threshold:.2f}."
    gone = ", ".join(f"box {s.index + 1} (IoU {s.iou:.2f})" for s in step.suppressed)
    return f"{kept}, and suppresses what overlaps it with an IoU above {threshold:.2f}: {gone}."


def _box(shown: Scene, index: int) -> str:
    kind, number, iou = shown.fate(index)
    if kind == "kept":
        said = f"Box {index + 1} is kept in step {number}"
        before = [step.kept for step in shown.steps[: (number or 1) - 1]]
        if not before:
            return f"{said}, as the best of all."
        most, which = iou_with(shown.boxes[index], shown.boxes[before]).max(dim=0)
        if most == 0:
            return f"{said}: no box kept before touches it."
        best = before[int(which)] + 1
        return (
            f"{said}: of those kept before, box {best} overlaps it most, with an IoU of {most:.2f}."
        )
    if kind == "waiting":
        return f"Box {index + 1} is waiting for its turn."
    assert number is not None
    kept = shown.steps[number - 1].kept
    return (
        f"Box {index + 1} is suppressed in step {number} by box {kept + 1}: their intersection "
        f"(hatched) is {iou:.2f} of their union, more than {shown.threshold:.2f}."
    )


def _span(box: Tensor) -> str:
    x1, y1, x2, y2 = box.tolist()
    return f"x {x1:.0f} to {x2:.0f}, y {y1:.0f} to {y2:.0f}"
