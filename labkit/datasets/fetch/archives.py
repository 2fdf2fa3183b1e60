"""Unpacking of zip and tar archives, confined to the target folder."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from labkit.errors import LabkitError
from labkit.system.progress_bars import progress_bar

_DAMAGED_STREAM = (gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def unpack(archive: Path, folder: Path, keep: Sequence[str] = ("*",)) -> list[str]:
    """Unpack an archive's files into ``folder``, which may hold other files.

    Files are unpacked to a temporary folder first and moved when all are complete, so that an
    interruption or a damaged archive leaves no incomplete file.

    Args:
        archive: a ``.zip`` or a tar in any compression.
        folder: the target folder, created if missing.
        keep: patterns of the names to unpack.

    Returns:
        The files' names relative to ``folder``.

    Raises:
        LabkitError: unknown archive format, damaged archive, a member outside ``folder``, nothing
            to unpack, or a full disk.
    """
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if zipfile.is_zipfile(archive):
            _unzip(archive, temporary, keep)
        elif tarfile.is_tarfile(archive):
            _untar(archive, temporary, keep)
        else:
            raise LabkitError(f"{archive}: neither a zip nor a tar archive")
        names = sorted(p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file())
        if not names:
            raise LabkitError(f"{archive}: holds none of {', '.join(keep)}")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(folder / name)
        return [name.as_posix() for name in names]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, *_DAMAGED_STREAM) as error:
        raise LabkitError(f"{archive}: the archive is damaged or unsafe: {error}") from None
    except OSError as error:
        raise LabkitError(f"{folder}: cannot unpack {archive.name}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _wanted(name: str, keep: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in keep)


def _unzip(archive: Path, folder: Path, keep: Sequence[str]) -> None:
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not m.is_dir() and _wanted(m.filename, keep)]
        for member in members:
            # zipfile would silently drop the dots; an archive that has them may be an attack.
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or name.parts[0].endswith(":"):
                raise LabkitError(f"{archive}: unsafe member {member.filename!r}; not unpacked")
        _check_room(archive, folder, sum(m.file_size for m in members))
        for member in progress_bar(members, desc=f"unpack {archive.name}", unit="file"):
            file.extract(member, folder)


def _untar(archive: Path, folder: Path, keep: Sequence[str]) -> None:
    with tarfile.open(archive) as file:
        for member in progress_bar(file, desc=f"unpack {archive.name}", unit="file"):
            if not member.isdir() and _wanted(member.name, keep):
                file.extract(member, folder, filter="data")
        # The checksum of a compressed stream comes after the tar's end; reading on verifies it.
        while file.fileobj is not None and file.fileobj.read(1 << 20):
            pass


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LabkitError(
            f"{folder.parent}: the disk is too full to unpack {archive.name}: {needed:,} bytes"
            f" needed, {free:,} free"
        )
