"""Ending processes together with everything that they have started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import psutil

ROUND_SECONDS, ROUNDS = 0.1, 50
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36


def descendants(pid: int) -> set[psutil.Process]:
    """Return all processes that descend from a process; none when it is gone."""
    with contextlib.suppress(psutil.Error):
        return set(psutil.Process(pid).children(recursive=True))
    return set()


def kill_tree(process: subprocess.Popen[Any], known: Iterable[psutil.Process] = ()) -> None:
    """Kill a process and all its descendants, and wait for the process.

    Args:
        known: processes to kill too: descendants seen earlier, whose parents may have ended since.
    """
    _kill(known)
    for _ in range(ROUNDS):  # descendants that fork while they are killed die in the next round
        if process.poll() is None:  # else the number may belong to another process by now
            members = descendants(process.pid)
            process.kill()
            _kill(members)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ROUND_SECONDS)
            return


def kill_descendants(seconds: float = ROUNDS * ROUND_SECONDS) -> None:
    """Kill and reap all descendants of this process; see :func:`adopt_orphans`."""
    deadline = time.monotonic() + seconds
    while (members := descendants(os.getpid())) and time.monotonic() < deadline:
        _kill(members)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(ROUND_SECONDS / 5)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends (Linux).

    Without this a daemon would no longer be a descendant, and could not be found.
    """
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Let the system kill this process when its parent ends for whatever reason (Linux)."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
