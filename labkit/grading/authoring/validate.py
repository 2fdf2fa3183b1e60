"""The proof of an assignment: everything for the solution, nothing for the untouched notebook."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.release import notebook_bytes, write_notebook
from labkit.grading.authoring.source import solution_lines
from labkit.grading.execution.execute import execute_in_subprocess
from labkit.grading.sandbox.isolation import choose
from labkit.grading.scoring.score import score
from labkit.grading.states import State

TELLING = 20
"""Characters from which on a line says something about a solution: `else:` and `)` do not."""

IMPORT = re.compile(r"(from [\w.]+ )?import ")


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    text: str
    holds: bool
    details: tuple[str, ...] = ()


def prove(loaded: LoadedAssignment) -> Iterator[Finding]:
    """Check an assignment, one finding after the other; the last two run the notebooks.

    Raises:
        LabkitError: a notebook cannot be run at all.
    """
    yield nothing_given_away(loaded)
    yield released(loaded)
    yield inputs_from_seed(loaded)
    yield solution_graded(loaded)
    yield untouched_graded(loaded)


def nothing_given_away(loaded: LoadedAssignment) -> Finding:
    """Look for lines of solutions and probes in the students' notebook."""
    given = {_normal(line) for cell in loaded.notebook.cells for line in cell.source.splitlines()}
    leaks = dict[str, None]()
    for number, line in solution_lines(list(loaded.cells)):
        text = _normal(line)
        if len(text) >= TELLING and not IMPORT.match(text) and text in given:
            leaks[f"cell {number}: {text}"] = None
    if leaks:
        return Finding("lines of the solution stand in the students' notebook", False, tuple(leaks))
    return Finding("no line of a solution or a probe stands in the students' notebook", True)


def released(loaded: LoadedAssignment) -> Finding:
    """Compare the notebook in the folder with the one that the source gives."""
    path = loaded.folder / f"{loaded.name}.ipynb"
    if path.is_file() and path.read_bytes() == notebook_bytes(loaded.notebook):
        return Finding(f"{path.name} is what the source gives", True)
    what = "is not what the source gives" if path.is_file() else "does not exist"
    return Finding(f"{path.name} {what}", False, (f"run: labkit assignment release {loaded.name}",))


def inputs_from_seed(loaded: LoadedAssignment) -> Finding:
    """Make every probe's cases twice from one seed, and once from another."""
    wrong = []
    for probe in loaded.assignment.probes:
        one, again, other = (
            cases_digest(probe.cases(case_generator(loaded.hash, submission, probe.name)))
            for submission in ("one", "one", "other")
        )
        if one != again:
            wrong.append(
                f"probe {probe.name}: other inputs from the same seed; draw from `rng` alone"
            )
        elif one == other:
            wrong.append(
                f"probe {probe.name}: the same inputs for every submission; draw from `rng`"
            )
    if wrong:
        return Finding("hidden inputs do not follow from the seed", False, tuple(wrong))
    return Finding("hidden inputs follow from the seed and differ between submissions", True)


def solution_graded(loaded: LoadedAssignment) -> Finding:
    """Grade the solution: it must earn everything."""
    return _graded(loaded, loaded.solution, "solution", everything=True)


def untouched_graded(loaded: LoadedAssignment) -> Finding:
    """Grade the students' notebook as it is: it must earn nothing."""
    return _graded(loaded, loaded.notebook, "untouched notebook", everything=False)


def _graded(loaded: LoadedAssignment, notebook: Any, what: str, *, everything: bool) -> Finding:
    # Both notebooks are the instructor's own, so that weaker isolation will do here.
    level = choose(allow_unsandboxed=True)
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        submission = Path(folder) / f"{loaded.name}.ipynb"
        write_notebook(notebook, submission)
        harvest = Path(folder) / "harvest"
        execute_in_subprocess(submission, loaded.folder, harvest, isolation=str(level))
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
    # An untouched cell raises; anything else that went wrong would prove nothing.
    if result.state not in ({State.OK} if everything else {State.OK, State.CELL_ERROR}):
        details.append(f"{result.state}: {result.message}")
    earned = sum(probe.points for probe in result.probes)
    out_of = sum(probe.out_of for probe in result.probes)
    text = f"the {what} earns {earned:g} of {out_of:g} points that need no reading"
    return Finding(f"{text} ({result.seconds:.1f} s, {level})", not details, tuple(details))


def _normal(line: str) -> str:
    return " ".join(line.split())
