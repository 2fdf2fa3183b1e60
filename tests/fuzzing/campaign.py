"""Readers under damaged files: what each made of them, and which broke the one rule.

The rule: a reader gives a result, or a LabkitError that names a file; in bounded time and memory.
Reading is done in a process of its own, which may die, hang or swell.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

TESTS = Path(__file__).parents[1]
LOOK_EVERY = 0.1
"""Seconds between two looks at a process that is busy with an example."""
MOST_FAULTS = 20
"""A reader that fails as often is not tried further: many a fault costs a new process."""


@dataclass(frozen=True)
class Limits:
    """What one example may take: CPU time, time by the clock, and memory.

    The clock's is the larger by far: others use the cores, too.
    """

    seconds: float = 5.0
    clock: float = 60.0
    megabytes: float = 1000.0


@dataclass(frozen=True)
class Ended:
    """How an example ended.

    Attributes:
        outcome: "read", "refused" or "fault".
        what: of a fault: one line, the same for examples of one kind.
        trace: of a fault: the exception's, if there was one.
        seconds: of CPU time; not known of an example that was ended.
        folder: with the files, until the next example.
    """

    outcome: str
    what: str = ""
    trace: str = ""
    seconds: float = 0.0
    folder: Path | None = None


@dataclass
class Tally:
    """How examples ended; of faults of one kind the first, with its number."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: dict[str, tuple[int, Ended]] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        return self.read + self.refused + sum(self.times.values())


class Readers:
    """The process that reads; a context. It is replaced when it had to be ended.

    Args:
        module: with the table ``READERS``.
        limits: of one example.
    """

    def __init__(self, module: str = "fuzzing.readers", limits: Limits | None = None) -> None:
        self.module, self.limits = module, limits or Limits()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Readers:
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._folder.cleanup()

    def read(self, reader: str, seed: int, number: int) -> Ended:
        """One example, which these three make."""
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(f"{reader} {seed} {number}\n")
        process.stdin.flush()
        began = self._answer()
        if not began or "broken" in began:
            self._end()
            raise RuntimeError(f"{reader}: the harness failed: {began and began['broken']}")
        folder = Path(began["begun"])
        told = self._watched(process)
        if isinstance(told, str):
            self._end()
            return Ended("fault", told, folder=folder)
        if "broken" in told:
            raise RuntimeError(f"{reader}: the harness failed: {told['broken']}")
        what, outcome = told.get("what", ""), told["outcome"]
        if told["megabytes"] > self.limits.megabytes:
            self._end()
            what, outcome = what or self._too_large, "fault"
        elif told["seconds"] > self.limits.seconds:
            what, outcome = what or self._too_long, "fault"
        return Ended(outcome, what, told.get("trace", ""), told["seconds"], folder)

    @property
    def _too_long(self) -> str:
        return f"more than {self.limits.seconds:g} s of CPU time"

    @property
    def _too_large(self) -> str:
        return f"more than {self.limits.megabytes:g} MB"

    def _watched(self, process: subprocess.Popen[str]) -> Any:
        """What the process tells of its example, or in one line why it tells nothing."""
        before = _Use.of(process.pid)
        while True:
            try:
                answer = self._answer(LOOK_EVERY)
            except queue.Empty:
                use = _Use.of(process.pid)
                if use.cpu - before.cpu > self.limits.seconds:
                    return self._too_long
                if use.clock - before.clock > self.limits.clock:
                    return f"more than {self.limits.clock:g} s"
                if use.megabytes - before.megabytes > self.limits.megabytes:
                    return self._too_large
                continue
            return answer or f"the process died ({process.wait()})"

    def _answer(self, timeout: float | None = None) -> Any:
        line = self._lines.get(timeout=timeout)
        return line and json.loads(line)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        folder = tempfile.mkdtemp(dir=self._folder.name)
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzzing.worker", self.module, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # readers warn and tell their progress
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        )
        lines = self._lines = queue.Queue[str]()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put("")

        threading.Thread(target=listen, daemon=True).start()
        return process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def fuzz(
    readers: Readers,
    name: str,
    seed: int,
    numbers: range,
    minutes: float | None = None,
    keep: Path | None = None,
) -> Tally:
    """Give a reader damaged inputs.

    Args:
        readers: the process.
        name: of the reader.
        seed, numbers: of the examples.
        minutes: end after them.
        keep: a folder for the input of the first fault of each kind.
    """
    tally, began = Tally(), time.monotonic()
    for number in numbers:
        if minutes is not None and time.monotonic() - began > minutes * 60:
            break
        if sum(tally.times.values()) >= MOST_FAULTS:
            break
        ended = readers.read(name, seed, number)
        tally.slowest = max(tally.slowest, ended.seconds)
        if ended.outcome == "read":
            tally.read += 1
        elif ended.outcome == "refused":
            tally.refused += 1
        else:
            if ended.what not in tally.faults:
                tally.faults[ended.what] = number, ended
                if keep is not None:
                    _save(ended, keep / f"{name}-{seed}-{number}")
            tally.times[ended.what] = tally.times.get(ended.what, 0) + 1
    return tally


@dataclass(frozen=True)
class _Use:
    """What a process has used."""

    cpu: float
    clock: float
    megabytes: float

    @classmethod
    def of(cls, pid: int) -> _Use:
        try:
            process = psutil.Process(pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:  # just ended
            return cls(0.0, time.monotonic(), 0.0)
        return cls(times.user + times.system, time.monotonic(), memory.rss / 2**20)


def _save(ended: Ended, target: Path) -> None:
    assert ended.folder is not None
    shutil.copytree(ended.folder, target, dirs_exist_ok=True)
    (target / "FAULT.txt").write_text(f"{ended.what}\n{ended.trace}")
