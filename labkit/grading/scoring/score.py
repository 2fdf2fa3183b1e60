"""Award points for a harvest, without running or importing any code of a student.

Regrading scores the same harvest again. The inputs are generated again from the seed with which
they were generated for the sandbox, so that tolerances, references and points can be corrected
afterwards.
"""

from __future__ import annotations

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
from labkit.grading.authoring.probes import Probe, Question, Tolerance, Value
from labkit.grading.authoring.source import Role
from labkit.grading.execution.codec import CodecError, decode
from labkit.grading.execution.free_text import without_task
from labkit.grading.execution.harvest import Harvest, ProbeRun, read_harvest
from labkit.grading.execution.remarks import Remarks
from labkit.grading.scoring import wording
from labkit.grading.scoring.comparison import find_mismatch
from labkit.grading.scoring.mistakes import WrongAnswer, recognise
from labkit.grading.scoring.results import ProbeScore, QuestionScore, Score
from labkit.grading.states import ProbeStatus, State
from labkit.system.message_text import counted

UNANSWERED = {
    ProbeStatus.TIMEOUT: "took too long",
    ProbeStatus.REFUSED: "returned something that cannot be transferred out of the notebook",
    ProbeStatus.NOT_RUN: "not called: the notebook stopped before",
}
TYPE_ERROR = "raised TypeError"


def score(harvest_dir: Path, loaded: LoadedAssignment) -> Score:
    """Award points for a harvest.

    Args:
        harvest_dir: the folder that holds ``harvest.json``.
        loaded: the assignment as it is now.

    Raises:
        LabkitError: the harvest is missing or damaged, it belongs to another assignment, the
            assignment generates other inputs now, or a reference fails.
    """
    harvest = read_harvest(harvest_dir)
    if harvest.assignment != loaded.name:
        raise LabkitError(
            f"{harvest_dir}: a harvest of assignment {harvest.assignment!r}, not of "
            f"{loaded.name!r}; grade into another --out"
        )
    flags = list[str]()
    probes = tuple(
        _score_probe(probe, harvest, harvest_dir, loaded, flags)
        for probe in loaded.assignment.probes
    )
    if harvest.state is State.PROTOCOL_VIOLATION:
        flags.append("the kernel broke the protocol: check the notebook before you give points")
    flags += [f"uses {name}, which is forbidden" for name in harvest.forbidden]
    flags += wording.failed_lines(harvest.cells)
    lost = [part for part in probes if part.points < part.out_of]
    flags += [
        f"exercise {part.exercise}: {words}"
        for part in lost
        for words in map(wording.to_instructor, part.reasons)
        if words
    ]
    if lost and harvest.language:
        flags.append(f"the notebook's language is {harvest.language}, but it ran as Python")
    questions = tuple(
        _question(question, harvest, loaded) for question in loaded.assignment.questions
    )
    flags += [f"question {q.name}: no answer found, but {q.doubt}" for q in questions if q.doubt]
    return Score(
        submission=harvest.submission,
        content_hash=harvest.content_hash,
        state=harvest.state,
        message=harvest.message,
        isolation=harvest.isolation,
        probes=probes,
        questions=questions,
        cells=tuple(harvest.cells),
        seconds=harvest.seconds.get("total", 0.0),
        flags=tuple(dict.fromkeys(flags)),
        language=harvest.language,
    )


def _score_probe(
    probe: Probe,
    harvest: Harvest,
    folder: Path,
    loaded: LoadedAssignment,
    flags: list[str],
) -> ProbeScore:
    found = harvest.probes.get(probe.name)
    if found is None:
        raise LabkitError(
            f"{folder}: the harvest has no probe {probe.name!r}; the assignment has changed: run "
            "`labkit grade` again"
        )
    own = _score_answers(probe, found, harvest, folder, loaded, flags)
    found = harvest.with_solutions.get(probe.name)
    if own.points == own.out_of or not probe.given or found is None:
        return own
    given = _score_answers(probe, found, harvest, folder, loaded, [])
    return replace(given, given=probe.given) if given.points > own.points else own


def _score_answers(
    probe: Probe,
    found: ProbeRun,
    harvest: Harvest,
    folder: Path,
    loaded: LoadedAssignment,
    flags: list[str],
) -> ProbeScore:
    remarks = harvest.remarks.get(probe.exercise, Remarks())
    excuse = _excuse(found.status, found.ename)
    if found.status is ProbeStatus.MISSING:
        excuse = wording.missing(probe.function, remarks)
    sent = found.answers
    if not sent:
        right = 0 if probe.score is None else None
        return _earned(probe, 0.0, right, 0, Counter({excuse: 1}), probe.hint)
    generator = case_generator(harvest.assignment_hash, harvest.content_hash, probe.name)
    cases = probe.cases(generator)
    if found.inputs is None:
        unchanged = harvest.assignment_hash == loaded.hash
    else:
        unchanged = found.inputs == cases_digest(cases)
    if not unchanged:
        raise LabkitError(
            f"{folder}: the assignment generates other inputs for probe {probe.name!r} now; run "
            "`labkit grade` again"
        )
    budget = int(loaded.assignment.limits.answer_mb * 1e6)
    answers = [_answer(one, budget) for one in sent[: len(cases)]]
    answers += [_Answer(reason=excuse)] * (len(cases) - len(answers))
    if probe.driver is None:
        # A TypeError at every call does not say that the name of an argument is the cause.
        renamed = wording.renamed_arguments(probe.function, list(probe.sent(cases[0])), remarks)
        answers = [
            replace(one, reason=renamed) if renamed and one.reason == TYPE_ERROR else one
            for one in answers
        ]
    if probe.score is not None:
        reasons = Counter(answer.reason for answer in answers if answer.reason)
        values = [answer.value for answer in answers]
        # Without any answer the instructor's function is not called.
        silent = reasons.total() == len(cases)
        share = 0.0 if silent else _share(probe, cases, values, reasons, flags)
        # Only all answers together are right or wrong.
        hint = _hint(probe, cases, answers) if share < 1 else ""
        return _earned(probe, share, None, len(cases), reasons, hint)
    judged = [
        answer.reason or _judge(probe, case, answer)
        for case, answer in zip(cases, answers, strict=True)
    ]
    right = judged.count(None)
    share = right / len(cases) if probe.partial else float(right == len(cases))
    wrong = [number for number, reason in enumerate(judged) if reason is not None]
    hint = _hint(probe, [cases[n] for n in wrong], [answers[n] for n in wrong]) if wrong else ""
    return _earned(probe, share, right, len(cases), Counter(filter(None, judged)), hint)


@dataclass(frozen=True)
class _Answer:
    """The answer to one case, or why there is none, and the rounding step of its numbers."""

    value: Value = None
    reason: str | None = None
    step: float = 0.0


def _judge(probe: Probe, case: dict[str, Value], answer: _Answer) -> str | None:
    assert probe.reference is not None
    try:
        return find_mismatch(answer.value, probe.reference(**case), _tolerance(probe, answer))
    except Exception as error:  # the reference's: `find_mismatch` raises for no answer
        raise LabkitError(
            f"probe {probe.name!r}: the reference failed: {type(error).__name__}: {error}"
        ) from error


def _tolerance(probe: Probe, answer: _Answer) -> Tolerance:
    return replace(probe.tolerance, rtol=max(probe.tolerance.rtol, 2 * answer.step))


def _hint(probe: Probe, cases: list[dict[str, Value]], wrong: list[_Answer]) -> str:
    """Return the hint of the mistake that gives all these wrong answers, or that of the probe."""
    if any(answer.reason for answer in wrong):  # an exception, or no answer
        return probe.hint
    mistake = recognise(
        probe.mistakes,
        [
            WrongAnswer(case, answer.value, _tolerance(probe, answer))
            for case, answer in zip(cases, wrong, strict=True)
        ],
    )
    return mistake.hint if mistake else probe.hint


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
        # Only a person can tell whether the answers or the function are wrong.
        reasons["the answers could not be scored"] += 1
        what = f"{type(error).__name__}: {error}"[:200]
        flags.append(f"probe {probe.name}: its score function raised {what}")
        return 0.0
    if not math.isfinite(share):
        flags.append(f"probe {probe.name}: its score function returned {share}")
        return 0.0
    share = min(max(share, 0.0), 1.0)
    if share < 1 and not reasons:
        reasons[f"{share:.0%} of what is possible"] += 1
    return share


def _answer(sent: Any, budget: int) -> _Answer:
    if isinstance(sent, dict) and set(sent) == {"raised"}:
        return _Answer(reason=_excuse(ProbeStatus.RAISED, sent["raised"]))
    if isinstance(sent, dict) and set(sent) == {"refused"}:
        return _Answer(reason=f"returned {_printable(sent['refused'])}")
    steps = [0.0]

    def array(values: np.ndarray, dtype: str) -> np.ndarray:
        # bfloat16 arrives as float32: the only type whose rounding would be lost.
        steps.append(2**-7 if dtype == "bfloat16" else 0.0)
        return values

    try:
        return _Answer(decode(sent, budget, array), step=max(steps))
    except CodecError:  # it could be decoded before it was stored: the file was changed since
        return _Answer(reason="returned something that cannot be read")


def _earned(
    probe: Probe,
    share: float,
    right: int | None,
    cases: int,
    reasons: Counter[str],
    hint: str,
) -> ProbeScore:
    # A single reason, or one that holds for every case, needs no count.
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
        hint=hint,
    )


def _excuse(status: ProbeStatus, ename: Any) -> str:
    if status is ProbeStatus.RAISED:
        return f"raised {wording.exception(ename)}"
    return UNANSWERED.get(status, "no answer")


def _printable(reason: Any) -> str:
    plain = isinstance(reason, str) and re.fullmatch(r"[\w .,()\[\]'-]{1,100}", reason)
    return reason if plain else "something that cannot be transferred out of the notebook"


def _question(question: Question, harvest: Harvest, loaded: LoadedAssignment) -> QuestionScore:
    stub = next(
        cell.stub
        for cell in loaded.cells
        if cell.role is Role.QUESTION and cell.name == question.name
    )
    answer = without_task(harvest.questions.get(question.name, ""), stub)
    doubt = "" if answer else harvest.doubts.get(question.name, "")
    unread = bool(answer or doubt)
    return QuestionScore(
        question.name, answer, None if unread else 0.0, question.points, doubt=doubt
    )
