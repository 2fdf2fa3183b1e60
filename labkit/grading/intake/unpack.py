"""The notebooks inside a zip file that a stranger made.

Nothing is written under a name that stands in the archive: a notebook becomes a file named after
its content, and its name is only text. Only notebooks are unpacked, so that whatever else an
archive holds, however large, is never read.
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
from labkit.grading.intake.notebook_reader import LARGEST
from labkit.system.atomic_write import atomic_write

MOST_MEMBERS = 20_000
MOST_BYTES = 4_000_000_000  # of all notebooks of one archive, unpacked
MOST_ARCHIVE = 100_000_000  # of a zip inside a zip
CHUNK = 1 << 20
ENCRYPTED = 0x1
UTF8 = 0x800


@dataclass(frozen=True)
class Unpacked:
    """One file of an archive.

    Attributes:
        name: as in the archive.
        path: where a notebook's content was written; None for any other file.
        modified: the time in the archive, in this computer's time zone.
        problem: why it was not unpacked.
    """

    name: PurePosixPath
    path: Path | None = None
    modified: datetime | None = None
    problem: str = ""


def is_notebook(name: str) -> bool:
    """Tell by its name whether a file is a notebook, also after a browser has renamed it."""
    return name.lower().endswith((".ipynb", ".ipynb.txt", ".ipynb.json"))


def is_hidden(name: PurePosixPath) -> bool:
    """Tell whether a file is something that a program has left behind, such as a checkpoint."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def unpack_notebooks(archive: Path, folder: Path) -> Iterator[Unpacked]:
    """Unpack the notebooks of a zip file, and of the zip files in it, into a folder.

    Yields:
        Every file of the archive; hidden ones are left out. A zip inside appears as a folder.

    Raises:
        LabkitError: it is no zip file, or damaged, or far too large, or the disk is full.
    """
    try:
        with archive.open("rb") as file:
            yield from _unpack(file, archive.name, folder, _Budget(MOST_MEMBERS, MOST_BYTES))
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
) -> Iterator[Unpacked]:
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise LabkitError(f"{label}: not a zip file, or a damaged one ({error})") from error
    budget.members -= len(members)
    if budget.members < 0:
        raise LabkitError(f"{label}: more than {MOST_MEMBERS} files; not unpacked")
    with archive:
        for member in members:
            name = _name(member)
            # Whose it is must not depend on where it wants to go.
            shown = PurePosixPath(*(part for part in name.parts if part not in {"..", name.root}))
            # In this order: zipfile's is_dir fails for a member without a name.
            if not shown.parts or member.is_dir() or is_hidden(shown):
                continue
            nested = name.suffix.lower() == ".zip" and not inner
            if not nested and not is_notebook(name.name):
                yield Unpacked(shown)
                continue
            problem = _refusal(member, name)
            if problem:
                yield Unpacked(shown, problem=problem)
                continue
            try:
                content = _content(archive, member, MOST_ARCHIVE if nested else LARGEST, budget)
            except _TooLarge as error:
                yield Unpacked(shown, problem=str(error))
                continue
            except Exception as error:  # each way of packing has exceptions of its own
                yield Unpacked(shown, problem=f"damaged ({error})")
                continue
            if not nested:
                path = folder / f"{hashlib.sha256(content).hexdigest()}.ipynb"
                if not path.is_file():
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)
                yield Unpacked(shown, path, _modified(member))
                continue
            try:
                found = list(_unpack(io.BytesIO(content), name.name, folder, budget, inner=True))
            except LabkitError as error:
                yield Unpacked(shown, problem=str(error))
                continue
            for one in found:
                yield Unpacked(shown / one.name, one.path, one.modified, one.problem)


class _TooLarge(Exception):
    pass


def _content(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int, budget: _Budget
) -> bytes:
    """Read a member, counting what really comes out: sizes in an archive can lie."""
    content = bytearray()
    with archive.open(member) as stream:
        while chunk := stream.read(CHUNK):
            content += chunk
            budget.bytes -= len(chunk)
            if len(content) > most or budget.bytes < 0:
                raise _TooLarge("unpacks to far too much")
    return bytes(content)


def _refusal(member: zipfile.ZipInfo, name: PurePosixPath) -> str:
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return "its name points outside the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link, not a file"
    if member.flag_bits & ENCRYPTED:
        return "encrypted with a password"
    return ""


def _name(member: zipfile.ZipInfo) -> PurePosixPath:
    name = member.filename
    if not member.flag_bits & UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")  # macOS writes UTF-8 and does not say so
    return PurePosixPath(name.replace("\\", "/").replace("\0", ""))


def _modified(member: zipfile.ZipInfo) -> datetime | None:
    try:
        return datetime(*member.date_time).astimezone()
    except ValueError:
        return None
