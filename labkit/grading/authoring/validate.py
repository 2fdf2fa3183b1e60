"""Validation of an assignment: full points for the solution, none for the released notebook."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.probes import Mistake, Probe
from labkit.grading.authoring.release import notebook_bytes, write_notebook
from labkit.grading.authoring.source import solution_lines
from labkit.grading.execution.codec import decode, encode
from labkit.grading.execution.executors import execute_locally
from labkit.grading.execution.harvest import Harvest, ProbeRun
from labkit.grading.sandbox.isolation import choose
from labkit.grading.scoring.score import score
from labkit.grading.states import ProbeStatus, State
from labkit.system.message_text import counted

MIN_TELLING = 20
"""Characters of a line that could reveal a solution; shorter ones are ``else:`` or ``)``."""

IMPORT = re.compile(r"(from [\w.]+ )?import ")


@dataclass(frozen=True)
class ValidationResult:
    """The result of one check."""

    text: str
    passed: bool
    details: tuple[str, ...] = ()


def validate_assignment(loaded: LoadedAssignment) -> Iterator[ValidationResult]:
    """Check an assignment and yield the results; the last two checks run the notebooks.

    Raises:
        LabkitError: a notebook cannot be run.
    """
    yield check_no_leaks(loaded)
    yield check_release(loaded)
    yield check_inputs(loaded)
    if any(probe.mistakes for probe in loaded.assignment.probes):
        yield check_mistakes(loaded)
    yield check_solution(loaded)
    yield check_untouched(loaded)


def check_no_leaks(loaded: LoadedAssignment) -> ValidationResult:
    """Check that no line of a solution or a probe is in the students' notebook."""
    given = {_normal(line) for cell in loaded.notebook.cells for line in cell.source.splitlines()}
    leaks = dict[str, None]()
    for number, line in solution_lines(list(loaded.cells)):
        text = _normal(line)
        if len(text) >= MIN_TELLING and not IMPORT.match(text) and text in given:
            leaks[f"cell {number}: {text}"] = None
    if leaks:
        return ValidationResult(
            "the students' notebook contains lines of the solution", False, tuple(leaks)
        )
    return ValidationResult(
        "the students' notebook contains no line of a solution or a probe", True
    )


def check_release(loaded: LoadedAssignment) -> ValidationResult:
    """Check that the notebook in the folder equals the one generated from the source."""
    path = loaded.folder / f"{loaded.name}.ipynb"
    if path.is_file() and path.read_bytes() == notebook_bytes(loaded.notebook):
        return ValidationResult(f"{path.name} is up to date with the source", True)
    what = "is not up to date with the source" if path.is_file() else "does not exist"
    return ValidationResult(
        f"{path.name} {what}", False, (f"run: labkit assignment release {loaded.name}",)
    )


def check_inputs(loaded: LoadedAssignment) -> ValidationResult:
    """Check that the cases of every probe depend on the seed, and on nothing else."""
    wrong = []
    for probe in loaded.assignment.probes:
        one, again, other = (
            cases_digest(probe.cases(case_generator(loaded.hash, submission, probe.name)))
            for submission in ("one", "one", "other")
        )
        if one != again:
            wrong.append(f"probe {probe.name}: different inputs for the same seed; use only `rng`")
        elif one == other:
            wrong.append(f"probe {probe.name}: the same inputs for every submission; use `rng`")
    if wrong:
        return ValidationResult("hidden inputs are not determined by the seed", False, tuple(wrong))
    return ValidationResult(
        "hidden inputs are determined by the seed and differ between submissions", True
    )


def check_mistakes(loaded: LoadedAssignment) -> ValidationResult:
    """Check that every mistake differs from the reference and gets its own hint."""
    wrong = dict[str, None]()
    number = 0
    for probe in loaded.assignment.probes:
        for place, mistake in enumerate(probe.mistakes, 1):
            number += 1
            where = f"probe {probe.name}, mistake {place} ({mistake.hint[:40]}...)"
            for submission in ("one", "other", "third"):
                problem = _problem_of_mistake(loaded, probe, mistake, submission)
                if problem:
                    wrong[f"{where}: {problem}"] = None
    if wrong:
        return ValidationResult("mistakes are not recognised", False, tuple(wrong))
    return ValidationResult(
        f"{counted(number, 'mistake')} of the probes: each loses points and gets its hint", True
    )


def _problem_of_mistake(
    loaded: LoadedAssignment, probe: Probe, mistake: Mistake, submission: str
) -> str:
    """Score a submission that makes the mistake; return what is wrong, or nothing."""
    cases = probe.cases(case_generator(loaded.hash, submission, probe.name))
    try:
        answers = [encode(mistake.answer(**copy.deepcopy(case))) for case in cases]
        if mistake.fits is not None:
            mistake.fits(copy.deepcopy(cases), [decode(answer) for answer in answers])
    except Exception as error:
        return f"its function raised {type(error).__name__}: {error}"
    runs = {one.name: ProbeRun() for one in loaded.assignment.probes}
    runs[probe.name] = ProbeRun(ProbeStatus.ANSWERED, answers=answers, inputs=cases_digest(cases))
    harvest = Harvest(
        submission=submission,
        content_hash=submission,
        assignment=loaded.name,
        assignment_hash=loaded.hash,
        state=State.OK,
        cells=[],
        probes=runs,
        questions={},
    )
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        harvest.write(Path(folder))
        result = score(Path(folder), loaded)
    (found,) = [part for part in result.probes if part.name == probe.name]
    if found.points == found.out_of:
        return "it gives right answers only; add a case in which it matters"
    if found.hint == probe.hint != mistake.hint:
        return "it is not recognised and gets the hint of the probe"
    if found.hint != mistake.hint:
        return f"it is taken for another one and gets the hint: {found.hint}"
    return ""


def check_solution(loaded: LoadedAssignment) -> ValidationResult:
    """Check that the solution earns full points."""
    return _graded(loaded, loaded.solution, "solution", everything=True)


def check_untouched(loaded: LoadedAssignment) -> ValidationResult:
    """Check that the unchanged students' notebook earns no points."""
    return _graded(loaded, loaded.notebook, "unchanged notebook", everything=False)


def _graded(
    loaded: LoadedAssignment, notebook: Any, what: str, *, everything: bool
) -> ValidationResult:
    # Both notebooks are the instructor's, so that weaker isolation is sufficient.
    level = choose(allow_unsandboxed=True)
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        submission = Path(folder) / f"{loaded.name}.ipynb"
        write_notebook(notebook, submission)
        harvest = Path(folder) / "harvest"
        task = {
            "submission": str(submission),
            "assignment_dir": str(loaded.folder.resolve()),
            "out": str(harvest),
            "isolation": str(level),
        }
        reply = execute_locally(task, loaded.assignment.limits.total_seconds)
        if "error" in reply:
            raise LabkitError(reply["error"])
        result = score(harvest, loaded)
    if result.state is State.INFRASTRUCTURE_ERROR:
        raise LabkitError(f"the {what} could not be run: {result.message}")
    wanted = [probe.out_of if everything else 0.0 for probe in result.probes]
    details = [
        f"{probe.name}: {probe.points:g} of {probe.out_of:g}: {'; '.join(probe.reasons)}"
        for probe, points in zip(result.probes, wanted, strict=True)
        if probe.points != points
    ]
    if everything:
        details += result.flags
    # An untouched cell raises; anything else that went wrong would validate_assignment nothing.
    if result.state not in ({State.OK} if everything else {State.OK, State.CELL_ERROR}):
        details.append(f"{result.state}: {result.message}")
    earned = sum(probe.points for probe in result.probes)
    out_of = sum(probe.out_of for probe in result.probes)
    text = f"the {what} earns {earned:g} of {out_of:g} points of the probes"
    return ValidationResult(
        f"{text} ({result.seconds:.1f} s, {level})", not details, tuple(details)
    )


def _normal(line: str) -> str:
    return " ".join(line.split())
