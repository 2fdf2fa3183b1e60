"""Collecting submissions: from a folder of notebooks, a folder of student folders, or a zip file.

The first matching rule determines the owner of a file:

- a name from Moodle: ``Ada Lovelace_1234_assignsubmission_file``, a folder or the start of a file;
- a name from Canvas: ``lovelaceada_LATE_1234_56789_homework.ipynb``, ``LATE`` if it was late;
- the folder that contains it, directly below the given one;
- its own name without the ending.

Zip files are unpacked: a single one is the export of a course system, any other one was packed by
a student.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path, PurePosixPath

from labkit.errors import LabkitError
from labkit.grading.intake.notebook_reader import MAX_FILE_BYTES
from labkit.grading.intake.student import Student
from labkit.grading.intake.unpack import UnpackedFile, is_hidden, is_notebook, unpack_notebooks

MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+(_|$)")
CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d{3,})_(?P<file>\d{3,})_.+")
DECLARED = re.compile(rb'"labkit"\s*:\s*\{[^{}]{0,200}?"assignment"\s*:\s*"([\w-]{1,48})"')
ENDING = re.compile(r"(\.zip|\.ipynb(\.txt|\.json)?)$", re.IGNORECASE)
MAX_SHOWN = 5  # names of files in a message


@dataclass(frozen=True)
class Submission:
    """One notebook of a student.

    Attributes:
        file: its name, with folders and archives.
        path: the notebook on this machine.
        content_hash: SHA-256 of the file.
        received: the time of submission; None if the time of the file is something else.
        number: the number of the file in Canvas, which grows with time; otherwise 0.
        marked_late: whether the course system marked it as late.
        declared: the assignment in its metadata; empty if missing.
        untouched: whether it has no content beside that of the released notebook.
    """

    file: str
    path: Path
    content_hash: str
    received: datetime | None = None
    number: int = 0
    marked_late: bool = False
    declared: str = ""
    untouched: bool = False


@dataclass(frozen=True)
class StudentSubmissions:
    """The submissions of a student.

    Attributes:
        student: the student.
        submissions: different notebooks, earliest first; may be empty.
        notes: files that could not be used, and why.
    """

    student: Student
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CollectedSubmissions:
    """The submissions of all students in order of their keys, and problems of no student."""

    students: tuple[StudentSubmissions, ...]
    problems: tuple[str, ...] = ()


def collect(
    source: Path,
    unpacked: Path,
    assignment: str,
    without: Path | None = None,
    untouched: Callable[[bytes], bool] = lambda content: False,
) -> CollectedSubmissions:
    """Find the submissions.

    Args:
        source: a folder, a zip file or a notebook.
        unpacked: the folder for notebooks from zip files.
        assignment: a student's notebooks of other assignments are ignored if there is one of this.
        without: a folder to ignore.
        untouched: tells whether the content of a notebook is unchanged; such a notebook is
            ignored if the student has another one.

    Raises:
        LabkitError: the source does not exist or has no notebook.
    """
    try:
        found = list(_find(source, unpacked, without))
    except OSError as error:
        raise LabkitError(f"{source}: cannot be read: {error.strerror or error}") from error
    files = defaultdict[str, list[Submission]](list)
    students = dict[str, Student]()
    notes, other = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    problems, ignored = list[str](), list[str]()
    for one in found:
        owner = _owner(one.name)
        if owner is None:
            ignored.append(_plain(one.name.name))
            continue
        key = owner.student.key
        students[key] = owner.student
        shown = _plain(str(one.name))
        if one.problem:
            notes[key].append(f"{shown}: {one.problem}")
        elif one.path is None:
            other[key].append(_plain(one.name.name))
        else:
            try:
                files[key].append(_submission(one, shown, owner, untouched))
            except OSError as error:
                notes[key].append(f"{shown}: cannot be read: {error.strerror or error}")
    if not any(files.values()):
        files_held = [*ignored, *chain.from_iterable(other.values())]
        raise LabkitError(_nothing(source, files_held, list(chain.from_iterable(notes.values()))))
    if ignored:
        problems.append(f"ignored, neither notebooks nor zip files: {_some(ignored)}")
    submitted = []
    for key in sorted(students, key=str.casefold):
        chosen, aside = _of_this_assignment(files[key], assignment)
        said = [*notes[key], *aside]
        if not chosen:
            held = f" (only {_some(other[key])})" if other[key] else ""
            said.insert(0, f"no notebook submitted{held}")
        submitted.append(StudentSubmissions(students[key], _in_order(chosen), tuple(said)))
    return CollectedSubmissions(tuple(submitted), tuple(problems))


def _find(source: Path, unpacked: Path, without: Path | None) -> Iterator[UnpackedFile]:
    if not source.is_dir():
        if is_notebook(source.name) and source.is_file():
            yield UnpackedFile(PurePosixPath(source.name), source, _modified(source))
        elif source.is_file():
            yield from _unwrapped(list(unpack_notebooks(source, unpacked)), source.stem)
        else:
            raise LabkitError(f"{source}: no such folder, zip file or notebook")
        return
    inside = [one for one in _walk(source, without) if not is_hidden(one.name)]
    zipped = [one.path for one in inside if one.path and one.path.suffix.lower() == ".zip"]
    if len(inside) == 1 and zipped:
        yield from _find(zipped[0], unpacked, None)
        return
    for one in inside:
        if one.path is None or one.path not in zipped:
            yield one if is_notebook(one.name.name) else replace(one, path=None)
            continue
        try:
            for member in unpack_notebooks(one.path, unpacked):
                yield replace(member, name=one.name / member.name)
        except LabkitError as error:
            yield UnpackedFile(one.name, problem=str(error).removeprefix(f"{one.path.name}: "))


def _walk(source: Path, without: Path | None) -> Iterator[UnpackedFile]:
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(
            name
            for name in folders
            if name not in links and (without is None or (here / name).resolve() != without)
        )
        for name in sorted([*names, *links]):
            path = here / name
            inner = PurePosixPath(path.relative_to(source).as_posix())
            # A link from an archive may point to any file of this machine.
            if path.is_symlink():
                yield UnpackedFile(inner, problem="a link, not a file")
            elif path.is_file():
                yield UnpackedFile(inner, path, _modified(path))


def _unwrapped(found: list[UnpackedFile], stem: str) -> list[UnpackedFile]:
    """Remove the single top folder that some programs add to a zip file."""
    tops = {one.name.parts[0] for one in found}
    shallow = min((len(one.name.parts) for one in found), default=0)
    if len(tops) == 1 and (shallow > 2 or (shallow > 1 and tops == {stem})):
        return [replace(one, name=PurePosixPath(*one.name.parts[1:])) for one in found]
    return found


@dataclass(frozen=True)
class _Owner:
    student: Student
    number: int = 0
    marked_late: bool = False
    canvas: bool = False


def _owner(name: PurePosixPath) -> _Owner | None:
    for part in name.parts:
        moodle = MOODLE.match(part)
        if moodle is not None:
            who = _plain(moodle["name"])
            student = Student(f"{who}_{moodle['id']}", name=who, moodle_id=moodle["id"])
            return _Owner(student)
    first = name.parts[0]
    canvas = CANVAS.fullmatch(first)
    if canvas is not None:
        who = _plain(canvas["name"])
        student = Student(f"{who}_{canvas['id']}", name=who, canvas_id=canvas["id"])
        return _Owner(student, int(canvas["file"]), canvas["late"] is not None, canvas=True)
    if len(name.parts) == 1 and ENDING.search(first) is None:
        return None
    key = _plain(ENDING.sub("", first)).strip()
    return _Owner(Student(key or _plain(first)))


def _submission(
    one: UnpackedFile, shown: str, owner: _Owner, untouched: Callable[[bytes], bool]
) -> Submission:
    assert one.path is not None
    with one.path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES)
    declared = DECLARED.search(content)
    return Submission(
        file=shown,
        path=one.path.resolve(),
        content_hash=hashlib.sha256(content).hexdigest(),
        # Canvas sets the time of every file to that of the download.
        received=None if owner.canvas else one.modified,
        number=owner.number,
        marked_late=owner.marked_late,
        declared=declared[1].decode() if declared else "",
        untouched=untouched(content),
    )


def _of_this_assignment(
    submissions: list[Submission], assignment: str
) -> tuple[list[Submission], list[str]]:
    """Return the submissions that may count, and notes about the others."""
    aside = list[str]()
    for why, belongs in (
        ("not a notebook of this assignment", lambda one: one.declared == assignment),
        ("unchanged since the release", lambda one: not one.untouched),
    ):
        ours = [one for one in submissions if belongs(one)]
        if ours:
            others = [one for one in submissions if not belongs(one)]
            aside += [f"{one.file}: ignored, {why}" for one in others]
            submissions = ours
    return submissions, aside


def _in_order(submissions: list[Submission]) -> tuple[Submission, ...]:
    def moment(one: Submission) -> tuple[int, float, list[tuple[int, str]]]:
        natural = [
            (int(part), "") if part.isdigit() else (0, part)
            for part in re.split(r"([0-9]{1,15})", one.file)
        ]
        return one.number, one.received.timestamp() if one.received else 0.0, natural

    # Equal files are one submission, with the time of the first.
    different = {one.content_hash: one for one in sorted(submissions, key=moment, reverse=True)}
    return tuple(reversed(different.values()))


def _modified(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except (ValueError, OverflowError):  # outside the range of datetime
        return None


def _plain(text: str) -> str:
    """Return the name of a file as text that can be written, compared and printed."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    return "".join(letter if letter.isprintable() else "_" for letter in text)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def _nothing(source: Path, files: list[str], problems: list[str]) -> str:
    if problems:
        return f"{source}: no usable notebook: {'; '.join(problems[:MAX_SHOWN])}"
    held = f"it contains {_some(files)}" if files else "it is empty"
    return f"{source}: no notebook (.ipynb) found; {held}"
