"""Final step of a grading: score all harvests, write gradebook, feedback and report."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.execution.harvest import FILE as HARVEST
from labkit.grading.execution.harvest import read_harvest
from labkit.grading.execution.manifest import GradingManifest, harvest_folder
from labkit.grading.intake.late_policy import Counts, LatePolicy
from labkit.grading.intake.submissions import StudentSubmissions, Submission
from labkit.grading.reports.feedback import write_feedback
from labkit.grading.reports.feedback_zip import write_feedback_zips
from labkit.grading.reports.gradebook import Entry, write_gradebook
from labkit.grading.reports.instructor_report import write_report
from labkit.grading.reports.questions import FILE as MARKS
from labkit.grading.reports.questions import Marks, read_marks, with_marks, write_questions
from labkit.grading.scoring.results import Score
from labkit.grading.scoring.score import score
from labkit.grading.states import State

NO_HARVEST = "it has not been run: run labkit grade again"


@dataclass(frozen=True)
class GradingResult:
    """The result of a grading.

    Attributes:
        entries: one for each student.
        files: the files for the instructor: report, gradebooks, questions.
        problems: problems that concern no single student.
    """

    entries: tuple[Entry, ...]
    files: tuple[Path, ...]
    problems: tuple[str, ...]

    @property
    def failed(self) -> list[Entry]:
        """Students whose submission could not be graded through no fault of theirs."""
        return [entry for entry in self.entries if entry.score is None and entry.file]


def counted_submissions(submitted: StudentSubmissions, counts: Counts) -> tuple[Submission, ...]:
    """Return the submissions that may count."""
    if counts is Counts.LAST:
        return submitted.submissions[-1:]
    return submitted.submissions[:1] if counts is Counts.FIRST else submitted.submissions


def finalize(
    out: Path,
    grading: GradingManifest,
    loaded: LoadedAssignment,
    policy: LatePolicy,
    errors: dict[str, str] | None = None,
) -> GradingResult:
    """Score every harvest of a grading and write all results.

    Args:
        out: the folder of the grading.
        grading: the submissions of all students.
        loaded: the present version of the assignment.
        policy: the late policy.
        errors: why there is no harvest, by content hash.

    Raises:
        LabkitError: questions.csv cannot be read, or a file cannot be written.
    """
    marks = read_marks(out, loaded, [one.student.key for one in grading.students])
    scorer = _Scorer(out, loaded, errors or {})
    owners = defaultdict[str, list[str]](list)
    for submitted in grading.students:
        for submission in submitted.submissions:
            owners[submission.content_hash].append(submitted.student.key)
    entries = [_entry(one, policy, scorer, marks, owners) for one in grading.students]
    students = [submitted.student for submitted in grading.students]
    problems = [
        *grading.problems,
        *(
            f"the late policy names {name!r}, but no student has that name"
            for name in policy.unknown_students(students)
        ),
        *_keep_lost_marks(out, marks, entries),
    ]
    files = [
        write_report(entries, loaded, out, command=grading.command, problems=problems),
        *write_gradebook(entries, loaded, out),
        *write_questions(entries, loaded, out, anonymous=grading.anonymous),
        *write_feedback_zips(entries, loaded, out),
    ]
    write_feedback(entries, loaded, out)
    return GradingResult(tuple(entries), tuple(files), tuple(problems))


class _Scorer:
    """Scores each file once, even if several students submitted it."""

    def __init__(self, out: Path, loaded: LoadedAssignment, errors: dict[str, str]) -> None:
        self.out, self.loaded, self.errors = out, loaded, errors
        self._known = dict[str, Score | str]()

    def score(self, submission: Submission) -> Score | str:
        """Return the score, or why there is none."""
        key = submission.content_hash
        if key not in self._known:
            self._known[key] = self._score(submission)
        return self._known[key]

    def _score(self, submission: Submission) -> Score | str:
        error = self.errors.get(submission.content_hash)
        folder = harvest_folder(self.out, submission)
        if error is None and not (folder / HARVEST).is_file():
            error = NO_HARVEST
        if error is not None:
            return error
        try:
            harvest = read_harvest(folder)
            if harvest.state is State.INFRASTRUCTURE_ERROR:
                return harvest.message or "the sandbox failed"
            return score(folder, self.loaded)
        except LabkitError as problem:
            return str(problem)
        except (
            Exception
        ) as problem:  # in the instructor's code; the other submissions are still graded
            return f"scoring failed: {type(problem).__name__}: {problem}"


def _entry(
    submitted: StudentSubmissions,
    policy: LatePolicy,
    scorer: _Scorer,
    marks: Marks,
    owners: dict[str, list[str]],
) -> Entry:
    student = submitted.student
    candidates = [
        _candidate(submitted, one, policy, scorer.score(one), scorer.out, marks)
        for one in counted_submissions(submitted, policy.counts)
    ]
    if not candidates:
        return Entry(student, None, problem="; ".join(submitted.notes))
    best = max(candidates, key=lambda entry: -1.0 if entry.points is None else entry.points)
    chosen = next(
        one for one in submitted.submissions if best.harvest == harvest_folder(scorer.out, one)
    )
    notes = [*best.notes, *submitted.notes]
    if len(submitted.submissions) > 1:
        count = len(submitted.submissions)
        notes.append(f"{count} submissions; the {policy.counts} counts: {chosen.file}")
    notes += _suspicions(chosen, student.key, scorer.loaded.name, owners)
    return Entry(
        student,
        best.score,
        best.file,
        best.harvest,
        best.problem,
        best.late,
        best.kept,
        tuple(notes),
    )


def _candidate(
    submitted: StudentSubmissions,
    submission: Submission,
    policy: LatePolicy,
    found: Score | str,
    out: Path,
    marks: Marks,
) -> Entry:
    student = submitted.student
    late = policy.lateness(student, submission.received, marked=submission.marked_late)
    unknown = "marked as late at an unknown time: add it to [received] of the late policy"
    return Entry(
        student,
        None if isinstance(found, str) else with_marks(student.key, found, marks),
        file=submission.file,
        harvest=harvest_folder(out, submission),
        problem=found if isinstance(found, str) else "",
        late=late.text,
        kept=late.kept,
        notes=(unknown,) if late.unknown else (),
    )


def _suspicions(
    chosen: Submission, key: str, assignment: str, owners: dict[str, list[str]]
) -> Iterator[str]:
    others = [owner for owner in owners[chosen.content_hash] if owner != key]
    if others:
        yield f"the same file as {', '.join(others)}"
    if chosen.declared and chosen.declared != assignment:
        yield f"the notebook is of the assignment {chosen.declared}"


def _keep_lost_marks(out: Path, marks: Marks, entries: Sequence[Entry]) -> Iterator[str]:
    """Copy questions.csv if some of its points will not be in the new file."""
    kept = {
        (entry.student.key, question.name): question.points
        for entry in entries
        if entry.score is not None
        for question in entry.score.questions
    }
    lost = [key for key, mark in marks.items() if mark.points is not None and kept.get(key) is None]
    if lost:
        now = datetime.now().astimezone()
        copy = out / f"{Path(MARKS).stem}-until-{now:%Y-%m-%dT%H-%M-%S}.csv"
        try:
            shutil.copy2(out / MARKS, copy)
        except OSError as error:
            raise LabkitError(f"{copy}: cannot be written: {error.strerror}") from error
        who = ", ".join(sorted({student for student, _ in lost})[:5])
        yield f"points for answers that no longer exist ({who}) are kept in {copy.name}"
