"""From a harvest to points: pure, and nothing of a student's code runs or is imported.

A regrade is this module once more over the same harvest. Inputs are made again from the seed that
the harvest was made with, so that tolerances, references and points can be corrected afterwards.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.probes import Probe, Question, Value
from labkit.grading.authoring.source import Role
from labkit.grading.execution.codec import WireError, decode
from labkit.grading.execution.free_text import without_task
from labkit.grading.scoring import wording
from labkit.grading.scoring.comparison import difference
from labkit.grading.scoring.results import ProbeScore, QuestionScore, Score
from labkit.system.message_text import counted

UNANSWERED = {
    "timeout": "took too long",
    "refused": "answered with something that cannot be taken out of the notebook",
    "not-run": "not called: the notebook did not run that far",
}
FIELDS: dict[str, type] = {
    "submission": str,
    "content_hash": str,
    "assignment": str,
    "assignment_hash": str,
    "state": str,
    "cells": list,
    "probes": dict,
    "questions": dict,
}
TYPE_ERROR = "raised TypeError"


def score(harvest_dir: Path, loaded: LoadedAssignment) -> Score:
    """Award points for a harvest.

    Args:
        harvest_dir: the folder that holds ``harvest.json``.
        loaded: the assignment as it is now.

    Raises:
        LabkitError: there is no complete harvest, it is another assignment's, its inputs are not
            those that the assignment makes now, or a reference fails.
    """
    harvest = read_harvest(harvest_dir)
    if harvest["assignment"] != loaded.name:
        raise LabkitError(
            f"{harvest_dir}: a harvest of assignment {harvest['assignment']!r}, not of "
            f"{loaded.name!r}; grade into another --out"
        )
    flags = list[str]()
    probes = tuple(
        _score_probe(probe, harvest, harvest_dir, loaded, flags)
        for probe in loaded.assignment.probes
    )
    if harvest["state"] == "protocol-violation":
        flags.append("the kernel broke the protocol: look at the notebook before the points count")
    flags += [f"uses {name}, which is forbidden" for name in harvest.get("forbidden") or ()]
    cells = tuple(cell for cell in harvest["cells"] if isinstance(cell, dict))
    flags += wording.failed_lines(cells)
    lost = [part for part in probes if part.points < part.out_of]
    flags += [
        f"exercise {part.exercise}: {words}"
        for part in lost
        for words in map(wording.to_instructor, part.reasons)
        if words
    ]
    language = harvest.get("language")
    if lost and isinstance(language, str) and language:
        flags.append(f"the notebook says that it is written in {language}, and ran as Python")
    doubts = harvest.get("doubts")
    questions = tuple(
        _question(question, harvest["questions"].get(question.name), doubts, loaded)
        for question in loaded.assignment.questions
    )
    flags += [f"question {q.name}: no answer found, but {q.doubt}" for q in questions if q.doubt]
    return Score(
        submission=str(harvest["submission"]),
        content_hash=str(harvest["content_hash"]),
        state=str(harvest["state"]),
        message=str(harvest.get("message") or ""),
        isolation=str(harvest.get("isolation") or ""),
        probes=probes,
        questions=questions,
        cells=cells,
        seconds=_seconds(harvest.get("seconds")),
        flags=tuple(dict.fromkeys(flags)),
        language=language if isinstance(language, str) else "",
    )


def read_harvest(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's ``harvest.json``.

    Raises:
        LabkitError: the file is missing, incomplete or from another version of labkit.
    """
    path = folder / "harvest.json"
    try:
        harvest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabkitError(f"{folder}: no harvest.json; grade this submission first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LabkitError(f"{path}: cannot be read ({error}); grade again") from error
    for name, kind in FIELDS.items():
        if not isinstance(harvest, dict) or not isinstance(harvest.get(name), kind):
            raise LabkitError(f"{path}: not a harvest: {name!r} is missing; grade again")
    return harvest


def _score_probe(
    probe: Probe,
    harvest: dict[str, Any],
    folder: Path,
    loaded: LoadedAssignment,
    flags: list[str],
) -> ProbeScore:
    found = harvest["probes"].get(probe.name)
    if not isinstance(found, dict):
        raise LabkitError(
            f"{folder}: the harvest knows no probe {probe.name!r}, which is newer than it; "
            "run `labkit grade` again"
        )
    own = _score_answers(probe, found, harvest, folder, loaded, flags)
    second = harvest.get("with_solutions")
    found = second.get(probe.name) if isinstance(second, dict) else None
    if own.points == own.out_of or not probe.given or not isinstance(found, dict):
        return own
    given = _score_answers(probe, found, harvest, folder, loaded, [])
    return replace(given, given=probe.given) if given.points > own.points else own


def _score_answers(
    probe: Probe,
    found: dict[str, Any],
    harvest: dict[str, Any],
    folder: Path,
    loaded: LoadedAssignment,
    flags: list[str],
) -> ProbeScore:
    noted = _remarks(harvest, probe.exercise)
    status = str(found.get("status"))
    excuse = _excuse(status, found.get("ename"))
    if status == "missing":
        excuse = wording.missing(probe.function, noted)
    sent = found.get("answers") or []
    if not sent:
        return _earned(probe, 0.0, 0 if probe.score is None else None, 0, Counter({excuse: 1}))
    generator = case_generator(harvest["assignment_hash"], harvest["content_hash"], probe.name)
    cases = probe.cases(generator)
    if found.get("inputs", cases_digest(cases)) != cases_digest(cases) or (
        "inputs" not in found and harvest["assignment_hash"] != loaded.hash
    ):
        raise LabkitError(
            f"{folder}: the inputs of probe {probe.name!r} are not those that were sent; the "
            "assignment has changed: run `labkit grade` again"
        )
    budget = int(loaded.assignment.limits.answer_mb * 1e6)
    answers = [_answer(one, budget) for one in sent[: len(cases)]]
    answers += [_Answer(reason=excuse)] * (len(cases) - len(answers))
    if probe.driver is None:
        # A TypeError at every call says little to whom an argument's name is to blame.
        renamed = wording.renamed_arguments(probe.function, list(probe.sent(cases[0])), noted)
        answers = [
            replace(one, reason=renamed) if renamed and one.reason == TYPE_ERROR else one
            for one in answers
        ]
    if probe.score is not None:
        reasons = Counter(answer.reason for answer in answers if answer.reason)
        values = [answer.value for answer in answers]
        # Without any answer there is nothing to ask the instructor's function about.
        silent = reasons.total() == len(cases)
        share = 0.0 if silent else _share(probe, cases, values, reasons, flags)
        return _earned(probe, share, None, len(cases), reasons)
    judged = [
        answer.reason or _judge(probe, case, answer)
        for case, answer in zip(cases, answers, strict=True)
    ]
    right = judged.count(None)
    share = right / len(cases) if probe.partial else float(right == len(cases))
    return _earned(probe, share, right, len(cases), Counter(filter(None, judged)))


def _remarks(harvest: dict[str, Any], exercise: str) -> dict[str, Any]:
    noted = harvest.get("remarks")
    found = noted.get(exercise) if isinstance(noted, dict) else None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class _Answer:
    """The answer to one case, or why there is none, and how coarsely its numbers are rounded."""

    value: Value = None
    reason: str | None = None
    step: float = 0.0


def _judge(probe: Probe, case: dict[str, Value], answer: _Answer) -> str | None:
    assert probe.reference is not None
    tolerance = replace(probe.tolerance, rtol=max(probe.tolerance.rtol, 2 * answer.step))
    try:
        return difference(answer.value, probe.reference(**case), tolerance)
    except Exception as error:  # not the student's: `difference` fails on no answer
        raise LabkitError(
            f"probe {probe.name!r}: the reference failed: {type(error).__name__}: {error}"
        ) from error


def _share(
    probe: Probe,
    cases: list[dict[str, Value]],
    answers: list[Value],
    reasons: Counter[str],
    flags: list[str],
) -> float:
    assert probe.score is not None
    try:
        share = float(probe.score(cases, answers))
    except Exception as error:
        # Whether the answers or the function are to blame, only a person can tell.
        reasons["the answers could not be scored"] += 1
        what = f"{type(error).__name__}: {error}"[:200]
        flags.append(f"probe {probe.name}: its score function raised {what}")
        return 0.0
    if not math.isfinite(share):
        flags.append(f"probe {probe.name}: its score function gave {share}")
        return 0.0
    share = min(max(share, 0.0), 1.0)
    if share < 1 and not reasons:
        reasons[f"{share:.0%} of what is possible"] += 1
    return share


def _answer(sent: Any, budget: int) -> _Answer:
    if isinstance(sent, dict) and set(sent) == {"raised"}:
        return _Answer(reason=_excuse("raised", sent["raised"]))
    if isinstance(sent, dict) and set(sent) == {"refused"}:
        return _Answer(reason=f"answered with {_printable(sent['refused'])}")
    steps = [0.0]

    def array(values: np.ndarray, dtype: str) -> np.ndarray:
        # What was bfloat16 arrives as float32: the only type whose rounding would be forgotten.
        steps.append(2**-7 if dtype == "bfloat16" else 0.0)
        return values

    try:
        return _Answer(decode(sent, budget, array), step=max(steps))
    except WireError:  # harvest has decoded it once; what changed since is nobody's right answer
        return _Answer(reason="answered with something that cannot be read")


def _earned(
    probe: Probe, share: float, right: int | None, cases: int, reasons: Counter[str]
) -> ProbeScore:
    # One thing that is wrong once, or everywhere, needs no count.
    with_numbers = reasons.total() > 1 and (len(reasons) > 1 or reasons.total() < cases)
    texts = [
        f"{number} of {cases} cases: {reason}" if with_numbers else reason
        for reason, number in reasons.most_common(5)
    ]
    if len(reasons) > len(texts):
        texts.append(f"and {counted(len(reasons) - len(texts), 'other reason')}")
    if right and not share:
        texts.append("points are for all cases together")
    return ProbeScore(
        name=probe.name,
        exercise=probe.exercise,
        function=probe.function,
        points=probe.points * share,
        out_of=probe.points,
        right=right,
        cases=cases,
        reasons=tuple(texts),
        hint=probe.hint if share < 1 else "",
    )


def _excuse(status: str, ename: Any) -> str:
    if status == "raised":
        return f"raised {wording.exception(ename)}"
    return UNANSWERED.get(status, "no answer")


def _printable(reason: Any) -> str:
    plain = isinstance(reason, str) and re.fullmatch(r"[\w .,()\[\]'-]{1,100}", reason)
    return reason if plain else "something that cannot be taken out of the notebook"


def _question(
    question: Question, text: Any, doubts: Any, loaded: LoadedAssignment
) -> QuestionScore:
    stub = next(
        cell.stub
        for cell in loaded.cells
        if cell.role is Role.QUESTION and cell.name == question.name
    )
    answer = without_task(text, stub) if isinstance(text, str) else ""
    doubt = doubts.get(question.name, "") if isinstance(doubts, dict) and not answer else ""
    unread = bool(answer or doubt)
    return QuestionScore(
        question.name, answer, None if unread else 0.0, question.points, doubt=str(doubt)
    )


def _seconds(found: Any) -> float:
    total = found.get("total") if isinstance(found, dict) else found
    return float(total) if isinstance(total, int | float) else 0.0
