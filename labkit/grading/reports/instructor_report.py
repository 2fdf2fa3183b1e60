"""The report for the instructor: points, submissions to check, difficult probes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.reports.feedback import FOLDER, page_name
from labkit.grading.reports.gradebook import Entry, number
from labkit.grading.reports.pages import render
from labkit.grading.reports.questions import group_answers
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.scoring.similarity import EXECUTED, identical_answers
from labkit.grading.states import State
from labkit.system.atomic_write import atomic_write

PAGE = "report.html"
BINS = 10
SLOWEST = 5
MIN_TEXT = 40  # characters; shorter texts are identical by chance


@dataclass(frozen=True)
class ProbeSummary:
    """The results of a probe in all graded submissions."""

    name: str
    exercise: str
    out_of: float
    mean: float
    right: int
    nothing: int
    graded: int
    reason: str

    @property
    def share(self) -> float:
        """The mean as a fraction of the points."""
        return self.mean / self.out_of


def write_report(
    entries: Sequence[Entry],
    loaded: LoadedAssignment,
    folder: Path,
    *,
    command: str = "",
    problems: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into a grading's folder.

    Args:
        command: the command line of the grading.
        problems: problems of no single student, for example a file that could not be unpacked.

    Raises:
        LabkitError: the page cannot be written.
    """
    path = folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(
            report_page(entries, loaded, folder, command=command, problems=problems),
            encoding="utf-8",
        )
    return path


def report_page(
    entries: Sequence[Entry],
    loaded: LoadedAssignment,
    folder: Path,
    *,
    command: str = "",
    problems: Sequence[str] = (),
) -> str:
    """Return the instructor's page; links are relative to `folder`."""
    graded = [entry for entry in entries if entry.score is not None]
    points = [entry.points or 0.0 for entry in graded]
    return render(
        "report.html.j2",
        loaded=loaded,
        command=command,
        problems=problems,
        entries=sorted(entries, key=lambda entry: entry.student.shown.casefold()),
        graded=len(graded),
        mean=statistics.fmean(points) if points else None,
        median=statistics.median(points) if points else None,
        unread=sum(entry.score.unread for entry in graded if entry.score),
        bars=histogram(points, loaded.assignment.points),
        states=Counter(entry.score.state if entry.score else "not graded" for entry in entries),
        to_check=[(entry, review_notes(entry)) for entry in entries if review_notes(entry)],
        identical=[
            *identical_answers(entries, loaded),
            *(
                (question.name, [entry for _, entry, _ in group.answers])
                for question in loaded.assignment.questions
                for group in group_answers(question.name, entries)
                if len(group.answers) > 1 and len(group.question.answer) >= MIN_TEXT
            ),
        ],
        silent=missing_answers(graded, loaded),
        probes=summarise_probes(graded, loaded),
        slowest=sorted(graded, key=lambda e: -(e.score.seconds if e.score else 0))[:SLOWEST],
        isolations=Counter(entry.score.isolation for entry in graded if entry.score),
        strong=[str(level) for level in STRONG],
        feedback=lambda entry: quote(f"{FOLDER}/{page_name(entry.student.key)}"),
        executed=lambda entry: _executed(entry, folder),
    )


def review_notes(entry: Entry) -> tuple[str, ...]:
    """Return what the instructor should check in a submission."""
    if entry.score is None:
        return (f"not graded: {entry.problem or 'unknown reason'}", *entry.notes)
    state = entry.score.state
    unusual = () if state in {State.OK, State.CELL_ERROR} else (f"{state}: {entry.score.message}",)
    return (*unusual, *entry.score.flags, *entry.notes)


def missing_answers(
    graded: Sequence[Entry], loaded: LoadedAssignment
) -> list[tuple[str, list[Entry]]]:
    """Return the questions that some students answered, with the students who did not."""
    found = []
    for question in loaded.assignment.questions:
        answers = {
            entry.student.key: bool(part.answer)
            for entry in graded
            for part in (entry.score.questions if entry.score else ())
            if part.name == question.name
        }
        silent = [entry for entry in graded if not answers.get(entry.student.key, True)]
        if silent and any(answers.values()):
            found.append((question.name, silent))
    return found


def summarise_probes(graded: Sequence[Entry], loaded: LoadedAssignment) -> list[ProbeSummary]:
    """Return the results of every probe and the most frequent reason for lost points."""
    summaries = []
    for probe in loaded.assignment.probes:
        found = [
            part
            for entry in graded
            if entry.score is not None
            for part in entry.score.probes
            if part.name == probe.name
        ]
        reasons = Counter(part.reasons[0] for part in found if part.reasons)
        most = reasons.most_common(1)
        summaries.append(
            ProbeSummary(
                name=probe.name,
                exercise=probe.exercise,
                out_of=probe.points,
                mean=statistics.fmean(part.points for part in found) if found else 0.0,
                right=sum(part.points == part.out_of for part in found),
                nothing=sum(part.points == 0 for part in found),
                graded=len(found),
                reason=f"{most[0][0]} ({most[0][1]}×)" if most else "",
            )
        )
    return summaries


def histogram(points: Sequence[float], out_of: float) -> list[dict[str, float | str]]:
    """Return the numbers of students in ten intervals of points; the last includes its end."""
    counts = [0] * BINS
    for earned in points:
        share = max(0.0, earned / out_of)
        counts[min(BINS - 1, int(share * BINS + 1e-9))] += 1
    highest = max(counts) or 1
    return [
        {
            "label": f"{number(index * out_of / BINS)}–{number((index + 1) * out_of / BINS)}",
            "count": count,
            "height": 100 * count / highest,
        }
        for index, count in enumerate(counts)
    ]


def _executed(entry: Entry, folder: Path) -> str:
    if entry.harvest is None or not (entry.harvest / EXECUTED).is_file():
        return ""
    try:
        return quote((entry.harvest / EXECUTED).relative_to(folder).as_posix())
    except ValueError:
        return ""
