"""Free-text answers: a page to read them, and a file for their points.

``questions.csv`` has a row for every answer, with identical answers in consecutive rows. The marker
fills in ``points`` (and ``comment``, which the student sees). `labkit grade` and `labkit regrade`
keep them as long as the answer is the same.

With anonymous marking, both files contain pseudonyms, which are the same in every grading of the
assignment.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.reports.gradebook import Entry, csv_text, number, unescape_cell
from labkit.grading.reports.pages import render
from labkit.grading.scoring.results import QuestionScore, Score
from labkit.system.atomic_write import atomic_write

PAGE, FILE = "questions.html", "questions.csv"
NEEDED = ["student", "question", "points", "comment", "answer"]
COLUMNS = [
    "student",
    "question",
    "points",
    "out_of",
    "comment",
    "identical",
    "answer_text",
    "question_text",
    "answer",
]
MAX_CELL = 30_000  # characters; spreadsheet programs truncate a cell at 32767


@dataclass(frozen=True)
class Mark:
    """The mark for one answer; `answer` is the digest of the text that was read."""

    points: float | None
    comment: str
    answer: str


Marks = Mapping[tuple[str, str], Mark]
"""By the student's key and the question's name."""


@dataclass(frozen=True)
class AnswerGroup:
    """Identical answers to a question, apart from case and white space; at least one.

    Attributes:
        answers: the shown name or pseudonym, the entry and the answer of each student.
    """

    answers: tuple[tuple[str, Entry, QuestionScore], ...]

    @property
    def question(self) -> QuestionScore:
        """The first of the answers."""
        return self.answers[0][2]


def pseudonym(student: str, assignment: str) -> str:
    """Return the name of a student for anonymous marking."""
    digest = hashlib.sha256(f"{assignment}\n{student}".encode(errors="replace"))
    return f"student-{digest.hexdigest()[:8]}"


def group_answers(
    name: str, entries: Sequence[Entry], shown: Callable[[Entry], str] = lambda e: e.student.shown
) -> list[AnswerGroup]:
    """Return the answers to a question that must be read, grouped by equality."""
    found = dict[str, list[tuple[str, Entry, QuestionScore]]]()
    for entry in entries:
        for question in entry.score.questions if entry.score else ():
            if question.name == name and (question.answer or question.doubt):
                key = " ".join(question.answer.split()).casefold()
                # Students without a found answer are not a group.
                key = key or f"\n{entry.student.key}"
                found.setdefault(key, []).append((shown(entry), entry, question))
    return [AnswerGroup(tuple(answers)) for answers in found.values()]


def read_marks(
    folder: Path, loaded: LoadedAssignment, students: Sequence[str] = ()
) -> dict[tuple[str, str], Mark]:
    """Read the marks from ``questions.csv`` in the folder of a grading; none without the file.

    Args:
        students: the keys of all students, for which the file may have pseudonyms.

    Raises:
        LabkitError: the file is malformed; the message names the line.
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
    # In countries with a decimal comma, spreadsheet programs separate columns by semicolons.
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise LabkitError(
            f"{path}: the column {missing[0]!r} is missing; run labkit grade again to restore it"
        )
    names = {pseudonym(key, loaded.name): key for key in students}
    marks: dict[tuple[str, str], Mark] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        cells = {name: unescape_cell(row[name] or "") for name in NEEDED}
        key = (names.get(cells["student"], cells["student"]), cells["question"])
        mark = Mark(_points(cells, loaded, where), cells["comment"].strip(), cells["answer"])
        if marks.get(key, mark) != mark:
            raise LabkitError(f"{where}: {key[0]}, {key[1]}: two different marks")
        marks[key] = mark
    return marks


def with_marks(student: str, score: Score, marks: Marks) -> Score:
    """Return a score with the marks for exactly these answers."""
    questions = []
    for question in score.questions:
        mark = marks.get((student, question.name))
        if mark is not None and mark.answer == _digest(question):
            question = replace(question, points=mark.points, comment=mark.comment)
        questions.append(question)
    return replace(score, questions=tuple(questions))


def write_questions(
    entries: Sequence[Entry], loaded: LoadedAssignment, folder: Path, *, anonymous: bool = False
) -> list[Path]:
    """Write the page and the file, with the marks that the entries already have.

    Args:
        anonymous: use pseudonyms instead of names, and sort by pseudonym.

    Returns:
        The files written; none if the assignment has no questions.

    Raises:
        LabkitError: a file cannot be written.
    """
    if not loaded.assignment.questions:
        return []

    def hidden(entry: Entry) -> str:
        return pseudonym(entry.student.key, loaded.name)

    if anonymous:
        entries = sorted(entries, key=hidden)
    table, questions = [COLUMNS], []
    for asked in loaded.assignment.questions:
        text = _task(asked.name, loaded)
        groups = group_answers(
            asked.name, entries, hidden if anonymous else lambda e: e.student.shown
        )
        for group in groups:
            for shown, entry, found in group.answers:
                row = [shown if anonymous else entry.student.key, found.name]
                row += [number(found.points), number(found.out_of), found.comment]
                row += [f"{len(group.answers)} students" if len(group.answers) > 1 else ""]
                row += [_answer_text(found), text, _digest(found)]
                table.append(row)
        silent = [
            hidden(entry) if anonymous else entry.student.shown
            for entry in entries
            if any(
                q.name == asked.name and not q.answer and not q.doubt
                for q in (entry.score.questions if entry.score else ())
            )
        ]
        questions.append({"asked": asked, "text": text, "groups": groups, "silent": silent})
    page = render(
        "questions.html.j2", loaded=loaded, questions=questions, file=FILE, anonymous=anonymous
    )
    for name, content in ((PAGE, page), (FILE, "\ufeff" + csv_text(table))):
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content.encode())
    return [folder / PAGE, folder / FILE]


def _answer_text(found: QuestionScore) -> str:
    if not found.answer:
        return f"(no answer found, but {found.doubt})"
    cut = len(found.answer) > MAX_CELL
    return f"{found.answer[:MAX_CELL]} … (more in {PAGE})" if cut else found.answer


def _task(name: str, loaded: LoadedAssignment) -> str:
    from labkit.grading.authoring.source import Role
    from labkit.workbook.solutions import TEXT_STUB

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
