"""Free-text answers: one page to read them in, one file to write the points in.

``questions.csv`` has a row for every answer. Whoever marks fills in ``points`` (and ``comment``,
which the student sees); grading again and `labkit regrade` keep what was filled in as long as the
answer has stayed the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.errors import LabkitError
from labkit.files import whole
from labkit.grading.assignment import LoadedAssignment
from labkit.grading.gradebook import Entry, as_written, csv_text, number
from labkit.grading.pages import render
from labkit.grading.results import QuestionScore, Score

PAGE, FILE = "questions.html", "questions.csv"
COLUMNS = ["student", "question", "points", "out_of", "comment", "answer"]


@dataclass(frozen=True)
class Mark:
    """What a person gave for one answer; `answer` is the digest of what was read."""

    points: float | None
    comment: str
    answer: str


Marks = Mapping[tuple[str, str], Mark]
"""By the student's key and the question's name."""


def read_marks(folder: Path, loaded: LoadedAssignment) -> dict[tuple[str, str], Mark]:
    """Read the points that were filled in, from ``questions.csv`` of a grading's folder.

    Without the file there are none.

    Raises:
        LabkitError: the file cannot be understood; the message names the line.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise LabkitError(f"{path}: not UTF-8; save it as CSV UTF-8") from error
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from error
    # Where the decimal sign is a comma, spreadsheet programs separate columns by semicolons.
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise LabkitError(
            f"{path}: the column {missing[0]!r} is missing; grade again to make it anew"
        )
    marks: dict[tuple[str, str], Mark] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        cells = {name: as_written(row[name] or "") for name in COLUMNS}
        key = (cells["student"], cells["question"])
        mark = Mark(_points(cells, loaded, where), cells["comment"].strip(), cells["answer"])
        if marks.get(key, mark) != mark:
            raise LabkitError(f"{where}: {key[0]}, {key[1]}: marked twice, differently")
        marks[key] = mark
    return marks


def with_marks(student: str, score: Score, marks: Marks) -> Score:
    """Return a score with the points that a person gave for these very answers."""
    questions = []
    for question in score.questions:
        mark = marks.get((student, question.name))
        if mark is not None and mark.answer == _digest(question):
            question = replace(question, points=mark.points, comment=mark.comment)
        questions.append(question)
    return replace(score, questions=tuple(questions))


def write_questions(entries: Sequence[Entry], loaded: LoadedAssignment, folder: Path) -> list[Path]:
    """Write the page and the file; points that the entries hold already stay filled in.

    Returns:
        The files written; none when the assignment asks no questions.

    Raises:
        LabkitError: a file cannot be written.
    """
    if not loaded.assignment.questions:
        return []
    table, groups = [COLUMNS], []
    for asked in loaded.assignment.questions:
        answers = []
        for entry in entries:
            found = next(
                (q for q in (entry.score.questions if entry.score else ()) if q.name == asked.name),
                None,
            )
            if found is not None and found.answer:
                answers.append({"entry": entry, "question": found})
                points, most = number(found.points), number(found.out_of)
                key, digest = entry.student.key, _digest(found)
                table.append([key, found.name, points, most, found.comment, digest])
        groups.append({"asked": asked, "text": _task(asked.name, loaded), "answers": answers})
    page = render("questions.html.j2", loaded=loaded, groups=groups, file=FILE)
    for name, content in ((PAGE, page), (FILE, "\ufeff" + csv_text(table))):
        with whole(folder / name) as temporary:
            temporary.write_bytes(content.encode())
    return [folder / PAGE, folder / FILE]


def _task(name: str, loaded: LoadedAssignment) -> str:
    from labkit.grading.source import TEXT_STUB, Role

    return next(
        cell.stub.replace(TEXT_STUB, "").strip()
        for cell in loaded.cells
        if cell.role is Role.QUESTION and cell.name == name
    )


def _points(cells: Mapping[str, str], loaded: LoadedAssignment, where: str) -> float | None:
    question = next((q for q in loaded.assignment.questions if q.name == cells["question"]), None)
    if question is None:
        known = ", ".join(q.name for q in loaded.assignment.questions)
        raise LabkitError(
            f"{where}: there is no question {cells['question']!r}; there are: {known}"
        )
    text = cells["points"].strip().replace(",", ".")
    if not text:
        return None
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= question.points:
        raise LabkitError(
            f"{where}: points {cells['points']!r} for {cells['student']}, {question.name}: "
            f"give a number from 0 to {question.points:g}, or nothing"
        )
    return points


def _digest(question: QuestionScore) -> str:
    return hashlib.sha256(question.answer.encode(errors="replace")).hexdigest()[:16]
