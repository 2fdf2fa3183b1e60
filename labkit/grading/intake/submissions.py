"""Finding out who handed in what: a folder of notebooks, of students' folders, or a zip file.

The first matching rule determines the owner of a file:

- Moodle's names: ``Ada Lovelace_1234_assignsubmission_file``, a folder or the start of a file's;
- Canvas's names: ``lovelaceada_LATE_1234_56789_homework.ipynb``, ``LATE`` where it was late;
- the folder that it lies in, just below the one that was given;
- its own name without the ending.

Zip files are looked into: a single one is taken for what a course's system exports, any other for
what a student has packed.
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
from labkit.grading.intake.notebook_reader import LARGEST
from labkit.grading.intake.student import Student
from labkit.grading.intake.unpack import Unpacked, is_hidden, is_notebook, unpack_notebooks

MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+(_|$)")
CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d{3,})_(?P<file>\d{3,})_.+")
DECLARED = re.compile(rb'"labkit"\s*:\s*\{[^{}]{0,200}?"assignment"\s*:\s*"([\w-]{1,48})"')
ENDING = re.compile(r"(\.zip|\.ipynb(\.txt|\.json)?)$", re.IGNORECASE)
SHOWN = 5  # names of files in a message


@dataclass(frozen=True)
class Submission:
    """One notebook of a student.

    Attributes:
        file: what it was called, folders and archives included.
        path: where it lies.
        content_hash: sha256 of the file.
        received: when it came in; None where its file's time says nothing about that.
        number: Canvas's of the file, later ones higher; else 0.
        marked_late: whether the course's system says that it is late.
        declared: the assignment that it says it is of; empty when it says nothing.
        untouched: whether it is as it was handed out.
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
class HandedIn:
    """What a student handed in.

    Attributes:
        student: who.
        submissions: different ones, earliest first; perhaps none.
        notes: what could not be taken.
    """

    student: Student
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """What was found: the students in order of their keys, and what is nobody's."""

    students: tuple[HandedIn, ...]
    problems: tuple[str, ...] = ()


def collect(
    source: Path,
    unpacked: Path,
    assignment: str,
    without: Path | None = None,
    untouched: Callable[[bytes], bool] = lambda content: False,
) -> Collection:
    """Find the submissions.

    Args:
        source: a folder, a zip file or a notebook.
        unpacked: where notebooks out of zip files go.
        assignment: where a student has notebooks that say they are of this one, others are left
            aside.
        without: a folder that is not looked into.
        untouched: tells whether a notebook's file is as it was handed out; beside another
            notebook of the same student such a one is left aside.

    Raises:
        LabkitError: there is nothing of the kind, or not a single notebook in it.
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
    handed_in = []
    for key in sorted(students, key=str.casefold):
        chosen, aside = _of_this_assignment(files[key], assignment)
        said = [*notes[key], *aside]
        if not chosen:
            held = f" (only {_some(other[key])})" if other[key] else ""
            said.insert(0, f"no notebook was handed in{held}")
        handed_in.append(HandedIn(students[key], _in_order(chosen), tuple(said)))
    return Collection(tuple(handed_in), tuple(problems))


def _find(source: Path, unpacked: Path, without: Path | None) -> Iterator[Unpacked]:
    if not source.is_dir():
        if is_notebook(source.name) and source.is_file():
            yield Unpacked(PurePosixPath(source.name), source, _modified(source))
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
            yield Unpacked(one.name, problem=str(error).removeprefix(f"{one.path.name}: "))


def _walk(source: Path, without: Path | None) -> Iterator[Unpacked]:
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
            # A link in somebody else's archive may point to anything on this machine.
            if path.is_symlink():
                yield Unpacked(inner, problem="a link, not a file")
            elif path.is_file():
                yield Unpacked(inner, path, _modified(path))


def _unwrapped(found: list[Unpacked], stem: str) -> list[Unpacked]:
    """Leave out the one folder around everything that some programs put into a zip file."""
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
    one: Unpacked, shown: str, owner: _Owner, untouched: Callable[[bytes], bool]
) -> Submission:
    assert one.path is not None
    with one.path.open("rb") as file:
        content = file.read(LARGEST)
    declared = DECLARED.search(content)
    return Submission(
        file=shown,
        path=one.path.resolve(),
        content_hash=hashlib.sha256(content).hexdigest(),
        # Canvas gives every file the time of the download.
        received=None if owner.canvas else one.modified,
        number=owner.number,
        marked_late=owner.marked_late,
        declared=declared[1].decode() if declared else "",
        untouched=untouched(content),
    )


def _of_this_assignment(
    submissions: list[Submission], assignment: str
) -> tuple[list[Submission], list[str]]:
    """Return those that may count, and what is said of the others."""
    aside = list[str]()
    for why, belongs in (
        ("not a notebook of this assignment", lambda one: one.declared == assignment),
        ("as it was handed out", lambda one: not one.untouched),
    ):
        ours = [one for one in submissions if belongs(one)]
        if ours:
            others = [one for one in submissions if not belongs(one)]
            aside += [f"{one.file}: left aside, {why}" for one in others]
            submissions = ours
    return submissions, aside


def _in_order(submissions: list[Submission]) -> tuple[Submission, ...]:
    def moment(one: Submission) -> tuple[int, float, list[tuple[int, str]]]:
        natural = [
            (int(part), "") if part.isdigit() else (0, part)
            for part in re.split(r"([0-9]{1,15})", one.file)
        ]
        return one.number, one.received.timestamp() if one.received else 0.0, natural

    # The same file twice is one submission, handed in when it first was.
    different = {one.content_hash: one for one in sorted(submissions, key=moment, reverse=True)}
    return tuple(reversed(different.values()))


def _modified(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except (ValueError, OverflowError):  # a time that no calendar has
        return None


def _plain(text: str) -> str:
    """Return a file's name as text that can be written, compared and printed."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    return "".join(letter if letter.isprintable() else "_" for letter in text)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _nothing(source: Path, files: list[str], problems: list[str]) -> str:
    if problems:
        return f"{source}: no notebook could be taken: {'; '.join(problems[:SHOWN])}"
    held = f"it holds {_some(files)}" if files else "it holds no files"
    return f"{source}: no notebook (.ipynb) in it; {held}"
