"""Recognition of common mistakes in the wrong answers to a probe."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.grading.authoring.probes import Mistake, Tolerance, Value
from labkit.grading.scoring.comparison import find_mismatch


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer, with the case (hidden entries included) and the tolerance."""

    case: dict[str, Value]
    value: Value
    tolerance: Tolerance


def recognise(mistakes: Sequence[Mistake], wrong: Sequence[WrongAnswer]) -> Mistake | None:
    """Return the first mistake that gives or fits all these wrong answers, or None.

    A mistake whose function fails is passed over, since it must not stop the grading; `labkit
    assignment check` reports it.
    """
    if not wrong:
        return None
    return next((one for one in mistakes if _made(one, wrong)), None)


def _made(mistake: Mistake, wrong: Sequence[WrongAnswer]) -> bool:
    if mistake.fits is None:
        return all(_gives(mistake, answer) for answer in wrong)
    try:
        cases = [copy.deepcopy(one.case) for one in wrong]
        return bool(mistake.fits(cases, [copy.deepcopy(one.value) for one in wrong]))
    except Exception:
        return False


def _gives(mistake: Mistake, answer: WrongAnswer) -> bool:
    try:
        # A copy, since the function may work in place.
        given = mistake.answer(**copy.deepcopy(answer.case))
        return find_mismatch(answer.value, given, answer.tolerance) is None
    except Exception:
        return False
