"""Folder lock: one command at a time writes into a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import LabkitError

LOCK = ".lock"
GONE = 15.0  # seconds for the children of a process that was killed to end as well
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(folder: Path, command: str, wait: float = 0.0) -> Iterator[int | None]:
    """Hold a folder's lock; yield its file descriptor, which child processes may inherit.

    A child that inherits the descriptor keeps the lock until it ends. The lock of a process that
    has died is therefore free as soon as its children have ended too; they are waited for.

    Args:
        folder: made where it is missing; the lock is its file ``.lock``, which stays.
        command: what holds the lock, for the message of another command, such as "labkit train".
        wait: seconds to wait for another process that is alive.

    Yields:
        The descriptor; None on a file system without locks.

    Raises:
        LabkitError: another process holds the lock, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LabkitError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder with"
            " --out"
        ) from error
    try:
        if _acquire(descriptor, folder, wait):
            _write_holder(descriptor, command)
            yield descriptor
        else:
            yield None
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path, wait: float) -> bool:
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            holder = _read_holder(descriptor)
            dead = _is_dead(holder)
            if time.monotonic() - start >= (max(wait, GONE) if dead else wait):
                who = f"{'a process started by ' if dead else ''}{_description(holder)}"
                raise LabkitError(
                    f"{folder}: {who} is writing there. Wait until it ends, stop it, or name"
                    " another folder with --out"
                ) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise LabkitError(f"{folder}: cannot be locked: {error.strerror}") from error


def _write_holder(descriptor: int, command: str) -> None:
    holder = {"command": command, "process": os.getpid(), "machine": socket.gethostname()}
    content = json.dumps(holder).encode()
    with contextlib.suppress(OSError):  # a full disk: the lock holds, its message says less
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)


def _read_holder(descriptor: int) -> dict[str, object]:
    """Read who holds the lock; empty if it is not written yet or damaged."""
    try:
        holder = json.loads(os.pread(descriptor, 10_000, 0))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, object]) -> bool:
    """Whether the process has certainly ended; False for processes of other machines."""
    process = holder.get("process")
    if holder.get("machine") != socket.gethostname() or type(process) is not int or process < 1:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process
        pass
    return False


def _description(holder: dict[str, object]) -> str:
    if not {"command", "process", "machine"} <= holder.keys():
        return "another process"
    elsewhere = holder["machine"] != socket.gethostname()
    where = f" on {holder['machine']}" if elsewhere else ""
    return f"{holder['command']} (process {holder['process']}{where})"
