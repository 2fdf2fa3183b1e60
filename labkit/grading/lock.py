"""One grader at a time in a folder, and knowing that a killed one has gone entirely."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import LabkitError

LOCK = ".lock"
SCRATCH = "labkit-grade-"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[int | None]:
    """Hold a folder's lock; give the descriptor, which processes may inherit.

    A process that has inherited it keeps the lock until it ends, so that whoever has the lock
    knows that nobody works in the folder any more.

    Raises:
        LabkitError: somebody else has had it all the time, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LabkitError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        yield descriptor if _take(descriptor, folder, seconds) else None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Give a folder for the sandboxes, for whoever holds the lock of `out`.

    Its name is noted in the lock's file, so that what a killed grader has left goes away with the
    next one.
    """
    note = out / LOCK
    left = Path(note.read_text(encoding="utf-8").strip() or "-")
    if left.name.startswith(SCRATCH):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        folder.chmod(0o711)  # the sandbox's user passes through
        note.write_text(str(folder), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take(descriptor: int, folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LabkitError(f"{folder}: another labkit grade is at work there") from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno in NO_LOCKS:  # some file systems have none
                return False
            raise LabkitError(f"{folder}: cannot be locked: {error.strerror}") from error
