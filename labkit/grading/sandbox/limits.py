"""Watching a sandbox from outside: memory, processes, files, time; and ending it."""

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
MOST_PROCESSES = 100
MOST_SOCKET_BYTES = 4_000_000  # in the folder of the sockets, the only one on a real disk
MOST_SCRATCH_BYTES = 1_000_000_000  # where the scratch folder lies there too


class Watch:
    """A thread that ends the sandbox when a limit is passed, whatever the main thread waits for.

    The measure of memory is the proportional set size of the whole family of processes: shared
    memory counts once, and forks do not multiply what they share.

    Attributes:
        verdict: the state and a sentence, once a limit was passed.
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
        self._before = resident(os.getpid())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sandbox and the watch."""
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
        members = family(self.process.pid)
        if len(members) > MOST_PROCESSES:
            return State.OVER_LIMIT, f"more than {MOST_PROCESSES} processes"
        # Resident sizes count shared pages more than once: cheap, and never too little.
        if over(members, resident, self.memory) and over(members, proportional, self.memory):
            return State.OVER_LIMIT, f"more than {self.memory / 1e6:g} MB of memory"
        if size_of(self.folder, MOST_SCRATCH_BYTES) > MOST_SOCKET_BYTES:
            scratch = self.folder / "scratch"
            spent = size_of(scratch, MOST_SCRATCH_BYTES) if scratch.is_dir() else MOST_SCRATCH_BYTES
            if spent >= MOST_SCRATCH_BYTES:
                return State.OVER_LIMIT, "too much written to files"
        if resident(os.getpid()) - self._before > self.own_memory:
            return State.FLOOD, "more output than can be taken in"
        return None


def over(members: list[int], measure: Callable[[int], int], limit: float) -> bool:
    """Tell whether processes are together larger than a limit, by some measure."""
    total = 0
    for member in members:
        total += measure(member)
        if total > limit:
            return True
    return False


def family(pid: int) -> list[int]:
    """Return a process and all its descendants. Those that end meanwhile may be left out."""
    found, waiting = list[int](), [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{found[-1]}/task"):  # noqa: PTH208
                with open(f"/proc/{found[-1]}/task/{task}/children", "rb") as file:  # noqa: PTH123
                    waiting += map(int, file.read().split())
    return found


def resident(pid: int) -> int:
    """Return the bytes of memory that a process occupies; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def peak() -> int:
    """Return the most bytes of memory that this process has occupied.

    Not ``ru_maxrss``: on Linux that begins with the size of the process that started this one.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def proportional(pid: int) -> int:
    """Return a process's share of the memory it occupies, its whole when the share is hidden."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident(pid)


def size_of(folder: Path, enough: int) -> int:
    """Return the bytes that a folder holds, counting to `enough` only, 4096 for every entry."""
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
