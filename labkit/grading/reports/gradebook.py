"""The gradebook: one row for each student, and the files that Canvas and Moodle import.

Canvas reads ``Student, ID, SIS User ID, SIS Login ID, Section`` and then one column for each
assignment, found by its title, with a second row of possible points; it finds a student by ID,
then by SIS IDs, then by name (canvas-lms, ``lib/gradebook_importer.rb``). Moodle's grading
worksheet needs ``Identifier``, ``Grade`` and ``Last modified (grade)`` and leaves every column
alone that is absent (moodle, ``mod/assign/feedback/offline/importgradeslib.php``); the identifier
is ``Participant`` and a number on an English site.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.intake.student import Student
from labkit.grading.scoring.results import Score
from labkit.system.atomic_write import atomic_write

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that spreadsheet programs treat as a formula."""

GRADEBOOK, CANVAS, MOODLE = "gradebook.csv", "canvas.csv", "moodle.csv"


@dataclass(frozen=True)
class Entry:
    """A row of the gradebook: the submission of a student that counts, and its score.

    Attributes:
        student: the student.
        score: None if the submission could not be graded.
        file: the name of the submitted file.
        harvest: the folder of the harvest.
        problem: why there is no score.
        late: the lateness, for the student.
        kept: the fraction of the points that remains after the late penalty.
        notes: for the instructor, for example about a second submission.
    """

    student: Student
    score: Score | None
    file: str = ""
    harvest: Path | None = None
    problem: str = ""
    late: str = ""
    kept: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> float | None:
        """Points earned so far, after the late penalty."""
        return None if self.score is None else self.score.points * self.kept


def write_gradebook(entries: Sequence[Entry], loaded: LoadedAssignment, folder: Path) -> list[Path]:
    """Write ``gradebook.csv``, ``canvas.csv`` and, for students from Moodle, ``moodle.csv``.

    ``gradebook.csv`` begins with a byte order mark, so that spreadsheet programs decode names
    correctly; open it with the encoding ``utf-8-sig``.

    Returns:
        The files written.

    Raises:
        LabkitError: a file cannot be written.
    """
    tables = {
        GRADEBOOK: gradebook_table(entries, loaded),
        CANVAS: canvas_table(entries, loaded),
        MOODLE: moodle_table(entries, loaded),
    }
    written = []
    for name, table in tables.items():
        path = folder / name
        if len(table) == 1 and name == MOODLE:
            path.unlink(missing_ok=True)
            continue
        mark = "\ufeff" if name == GRADEBOOK else ""
        with atomic_write(path) as temporary:
            temporary.write_bytes((mark + csv_text(table)).encode())
        written.append(path)
    return written


def gradebook_table(entries: Sequence[Entry], loaded: LoadedAssignment) -> list[list[str]]:
    """Return the table of all scores, header first."""
    probes = [probe.name for probe in loaded.assignment.probes]
    questions = [question.name for question in loaded.assignment.questions]
    header = ["student", "name", "points", "out_of", "unread", "late", "state", "look_at"]
    table = [[*header, *probes, *questions, "isolation", "file", "content_hash"]]
    for entry in entries:
        score = entry.score
        look_at = "; ".join((*(score.flags if score else ()), *entry.notes))
        row = [
            entry.student.key,
            entry.student.name,
            number(entry.points),
            number(loaded.assignment.points),
            str(score.unread if score else len(questions)),
            entry.late,
            score.state if score else f"not graded: {entry.problem}",
            look_at,
        ]
        earned = {part.name: part.points for part in (score.probes if score else ())}
        marks = {part.name: part.points for part in (score.questions if score else ())}
        row += [number(earned.get(name)) for name in probes]
        row += [number(marks.get(name)) for name in questions]
        row += [score.isolation, entry.file, score.content_hash] if score else ["", entry.file, ""]
        table.append(row)
    return table


def canvas_table(entries: Sequence[Entry], loaded: LoadedAssignment) -> list[list[str]]:
    """Return the table that Canvas imports under Grades, Import."""
    identity = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    table = [
        [*identity, loaded.assignment.title],
        ["    Points Possible", "", "", "", "", number(loaded.assignment.points)],
    ]
    for entry in entries:
        student = entry.student
        table.append([student.shown, student.canvas_id, "", "", "", number(entry.points)])
    return table


def moodle_table(entries: Sequence[Entry], loaded: LoadedAssignment) -> list[list[str]]:
    """Return Moodle's grading worksheet: the students with a participant number."""
    table = [["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)"]]
    most = number(loaded.assignment.points)
    for entry in entries:
        student = entry.student
        if student.moodle_id:
            identifier = f"Participant {student.moodle_id}"
            table.append([identifier, student.name, number(entry.points), most, "-"])
    return table


def number(points: float | None) -> str:
    """Format points with at most two decimals; None as an empty string."""
    return "" if points is None else f"{round(points, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def csv_text(table: Sequence[Sequence[str]]) -> str:
    """Return a table as comma-separated text in which no cell is a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    for row in table:
        writer.writerow([_escape_cell(cell) for cell in row])
    return stream.getvalue()


def unescape_cell(cell: str) -> str:
    """Return the original content of a cell of :func:`csv_text`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _escape_cell(cell: str) -> str:
    # A spreadsheet program would execute a name such as =HYPERLINK(...).
    cell = cell.replace("\0", "")
    return f"'{cell}" if cell.startswith(FORMULA) and cell != "-" else cell
