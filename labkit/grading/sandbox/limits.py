"""Limits of a sandbox, enforced from outside: memory, processes, files, time."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from labkit.grading.states import State
from labkit.system.processes import kill_tree

POLL = 0.1  # seconds
PAGE = os.sysconf("SC_PAGE_SIZE")
MAX_PROCESSES = 100
MAX_SOCKET_BYTES = 4_000_000  # in the folder of the sockets, the only one on a real disk
MAX_SCRATCH_BYTES = 1_000_000_000  # where the scratch folder is there too


class SandboxWatch:
    """A thread that kills the sandbox when a limit is exceeded.

    Memory is measured as the proportional set size of all processes of the sandbox: shared memory
    counts once.

    Attributes:
        verdict: the state and a message, once a limit was exceeded.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        folder: Path,
        *,
        memory_mb: float,
        seconds: float,
        own_memory_mb: float,
    ) -> None:
        self.process, self.folder = process, folder
        self.memory, self.own_memory = memory_mb * 1e6, own_memory_mb * 1e6
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.verdict: tuple[State, str] | None = None
        self._before = resident_memory(os.getpid())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Kill the sandbox and end the thread."""
        self._stopped.set()
        self._thread.join()
        kill_tree(self.process)

    def wait_for_verdict(self) -> tuple[State, str] | None:
        """Wait until the sandbox has ended and return the verdict."""
        self._thread.join()
        return self.verdict

    def _run(self) -> None:
        while not self._stopped.wait(POLL) and self.process.poll() is None:
            self.verdict = self._check()
            if self.verdict is not None:
                kill_tree(self.process)
                return

    def _check(self) -> tuple[State, str] | None:
        if time.monotonic() > self.deadline:
            return State.CELL_TIMEOUT, f"everything together took more than {self.seconds:.0f} s"
        members = process_tree(self.process.pid)
        if len(members) > MAX_PROCESSES:
            return State.OVER_LIMIT, f"more than {MAX_PROCESSES} processes"
        # First the resident sizes: they are cheap, and never smaller than the proportional ones.
        if exceeds(members, resident_memory, self.memory) and exceeds(
            members, proportional_memory, self.memory
        ):
            return State.OVER_LIMIT, f"more than {self.memory / 1e6:g} MB of memory"
        if folder_size(self.folder, MAX_SCRATCH_BYTES) > MAX_SOCKET_BYTES:
            scratch = self.folder / "scratch"
            spent = (
                folder_size(scratch, MAX_SCRATCH_BYTES) if scratch.is_dir() else MAX_SCRATCH_BYTES
            )
            if spent >= MAX_SCRATCH_BYTES:
                return State.OVER_LIMIT, "too much written to files"
        if resident_memory(os.getpid()) - self._before > self.own_memory:
            return State.FLOOD, "more output than can be taken in"
        return None


def exceeds(members: list[int], measure: Callable[[int], int], limit: float) -> bool:
    """Tell whether the sum of a measure over processes exceeds a limit."""
    total = 0
    for member in members:
        total += measure(member)
        if total > limit:
            return True
    return False


def process_tree(pid: int) -> list[int]:
    """Return the numbers of a process and its descendants, read from /proc: ten times a second."""
    found, waiting = list[int](), [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{found[-1]}/task"):  # noqa: PTH208
                with open(f"/proc/{found[-1]}/task/{task}/children", "rb") as file:  # noqa: PTH123
                    waiting += map(int, file.read().split())
    return found


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def peak_memory() -> int:
    """Return the largest resident memory of this process in bytes.

    Not ``ru_maxrss``: on Linux it begins with the size of the process that started this one.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def proportional_memory(pid: int) -> int:
    """Return the proportional memory of a process in bytes; resident memory if it is hidden."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident_memory(pid)


def folder_size(folder: Path, enough: int) -> int:
    """Return the size of a folder in bytes, 4096 for every entry; stop counting at `enough`."""
    total, waiting = 0, [str(folder)]
    while waiting and total < enough:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += 4096 + entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if total >= enough:
                    break
    return total
