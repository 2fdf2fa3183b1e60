"""Unpacking of notebooks from untrusted zip files.

No name from an archive is used as a path: a notebook is written to a file named after its hash.
Only notebooks are unpacked; other files, however large, are never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO

from labkit.errors import LabkitError
from labkit.grading.intake.notebook_reader import MAX_FILE_BYTES
from labkit.system.atomic_write import atomic_write

MAX_MEMBERS = 20_000
MAX_BYTES = 4_000_000_000  # of all notebooks of one archive, unpacked
MAX_INNER_ARCHIVE = 100_000_000  # of a zip inside a zip
CHUNK = 1 << 20
ENCRYPTED = 0x1
UTF8 = 0x800


@dataclass(frozen=True)
class UnpackedFile:
    """One file of an archive.

    Attributes:
        name: as in the archive.
        path: the unpacked notebook; None for any other file.
        modified: the time in the archive, in the time zone of this computer.
        problem: why it was not unpacked.
    """

    name: PurePosixPath
    path: Path | None = None
    modified: datetime | None = None
    problem: str = ""


def is_notebook(name: str) -> bool:
    """Tell by its name whether a file is a notebook, also with an ending added by a browser."""
    return name.lower().endswith((".ipynb", ".ipynb.txt", ".ipynb.json"))


def is_hidden(name: PurePosixPath) -> bool:
    """Tell whether a file was left by a program, such as a checkpoint."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def unpack_notebooks(archive: Path, folder: Path) -> Iterator[UnpackedFile]:
    """Unpack the notebooks of a zip file, and of the zip files in it, into a folder.

    Yields:
        Every file of the archive; hidden ones are left out. A zip inside appears as a folder.

    Raises:
        LabkitError: the file is not a zip file, is damaged or too large, or the disk is full.
    """
    try:
        with archive.open("rb") as file:
            yield from _unpack(file, archive.name, folder, _Budget(MAX_MEMBERS, MAX_BYTES))
    except OSError as error:
        raise LabkitError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error


@dataclass
class _Budget:
    members: int
    bytes: int


def _unpack(
    file: IO[bytes],
    label: str,
    folder: Path,
    budget: _Budget,
    *,
    inner: bool = False,
) -> Iterator[UnpackedFile]:
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise LabkitError(f"{label}: not a zip file, or damaged ({error})") from error
    budget.members -= len(members)
    if budget.members < 0:
        raise LabkitError(f"{label}: more than {MAX_MEMBERS} files; not unpacked")
    with archive:
        for member in members:
            name = _name(member)
            # The owner must not depend on a path that points outside.
            shown = PurePosixPath(*(part for part in name.parts if part not in {"..", name.root}))
            # First the name: zipfile's is_dir fails for a member without one.
            if not shown.parts or member.is_dir() or is_hidden(shown):
                continue
            nested = name.suffix.lower() == ".zip" and not inner
            if not nested and not is_notebook(name.name):
                yield UnpackedFile(shown)
                continue
            problem = _refusal(member, name)
            if problem:
                yield UnpackedFile(shown, problem=problem)
                continue
            try:
                content = _content(
                    archive, member, MAX_INNER_ARCHIVE if nested else MAX_FILE_BYTES, budget
                )
            except _TooLarge as error:
                yield UnpackedFile(shown, problem=str(error))
                continue
            except Exception as error:  # every compression method has its own exceptions
                yield UnpackedFile(shown, problem=f"damaged ({error})")
                continue
            if not nested:
                path = folder / f"{hashlib.sha256(content).hexdigest()}.ipynb"
                if not path.is_file():
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)
                yield UnpackedFile(shown, path, _modified(member))
                continue
            try:
                found = list(_unpack(io.BytesIO(content), name.name, folder, budget, inner=True))
            except LabkitError as error:
                yield UnpackedFile(shown, problem=str(error))
                continue
            for one in found:
                yield UnpackedFile(shown / one.name, one.path, one.modified, one.problem)


class _TooLarge(Exception):
    pass


def _content(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int, budget: _Budget
) -> bytes:
    """Read a member and count the bytes that really come out: sizes in an archive can lie."""
    content = bytearray()
    with archive.open(member) as stream:
        while chunk := stream.read(CHUNK):
            content += chunk
            budget.bytes -= len(chunk)
            if len(content) > most or budget.bytes < 0:
                raise _TooLarge("too large when unpacked")
    return bytes(content)


def _refusal(member: zipfile.ZipInfo, name: PurePosixPath) -> str:
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return "its name is a path outside the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link, not a file"
    if member.flag_bits & ENCRYPTED:
        return "encrypted with a password"
    return ""


def _name(member: zipfile.ZipInfo) -> PurePosixPath:
    name = member.filename
    if not member.flag_bits & UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")  # macOS writes UTF-8 without the flag
    return PurePosixPath(name.replace("\\", "/").replace("\0", ""))


def _modified(member: zipfile.ZipInfo) -> datetime | None:
    try:
        return datetime(*member.date_time).astimezone()
    except ValueError:
        return None
