"""Execution of several notebooks at a time, each in its own process, with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from labkit.system.cpu_cores import LIBRARIES, available_cores
from labkit.system.processes import descendants, kill_tree
from labkit.workbook.outcome import Outcome, Trace

GRACE = 10.0  # seconds that a worker has to shut its kernel down and save, before it is killed
POLL = 0.2  # seconds between looks at the deadlines


@dataclass
class Job:
    """One notebook to run, with its parameters and output files."""

    name: str
    path: Path
    parameters: dict[str, Any]
    output: Path  # the executed notebook
    workdir: Path  # the kernel's working directory
    log: Path  # what the worker and the kernel's native code print
    trace: Trace = field(default_factory=Trace)
    seconds: float = 0.0


class Worker:
    """Process of one job.

    Its events arrive in a queue as ``(worker, event)``; ``(worker, None)`` is the last one.
    """

    def __init__(self, job: Job, events: queue.Queue[tuple[Worker, Any]], env: dict[str, str]):
        self.job = job
        self.started = time.monotonic()
        self.killed_at = float("inf")
        self._family: set[psutil.Process] = set()
        for folder in (job.workdir, job.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labkit.workbook.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=job.workdir,
                env=env,
                # Ctrl-C in the terminal reaches the runner alone, which then stops its workers.
                start_new_session=True,
            )
        task = {
            "notebook": str(job.path),
            "output": str(job.output),
            "parameters": job.parameters,
        }
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.Queue[tuple[Worker, Any]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, json.loads(line)))
        self.process.wait()
        events.put((self, None))

    def take(self, event: dict[str, Any]) -> None:
        """Handle an event, and record the worker's new child processes."""
        self.job.trace.add(event)
        if event["event"] == "flood":
            self.stop(Outcome.FAILED)
        self._family |= descendants(self.process.pid)

    def stop(self, outcome: Outcome) -> None:
        """Request the worker to interrupt the notebook and save; kill it later if it does not."""
        if self.job.trace.stopped is None:
            self.job.trace.stopped = outcome
            self.killed_at = time.monotonic() + GRACE
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def kill(self) -> None:
        """Kill the worker and every process it started, the kernel's own children included."""
        kill_tree(self.process, self._family)

    def finish(self) -> None:
        """Record how the process ended, and kill its remaining child processes."""
        self.job.seconds = time.monotonic() - self.started
        self.job.trace.returncode = self.process.wait()
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        if not any(self.job.workdir.iterdir()):
            self.job.workdir.rmdir()
        if self.job.log.stat().st_size == 0:
            self.job.log.unlink()


def run_jobs(
    jobs: list[Job],
    *,
    at_once: int,
    environment: dict[str, str],
    seconds_each: float,
    on_start: Callable[[Job], None],
    on_event: Callable[[Job], None],
    on_end: Callable[[Job], None],
) -> bool:
    """Run the jobs, `at_once` at a time, and fill in their traces.

    Ctrl-C stops all of them; those not started yet get ``Outcome.NOT_RUN`` as ``trace.stopped``.

    Args:
        environment: environment of the kernels, see :func:`kernel_environment`.
        seconds_each: time limit of each notebook, including the kernel's start.
        on_start, on_event, on_end: called with the job, from this thread.

    Returns:
        Whether every job had its turn, that is, nobody pressed Ctrl-C.
    """
    waiting, running = list(jobs), list[Worker]()
    events: queue.Queue[tuple[Worker, Any]] = queue.Queue()
    env = kernel_environment(at_once, environment)
    undisturbed = True
    try:
        while waiting or running:
            try:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running.append(Worker(job, events, env))
                    on_start(job)
                _step(events, running, seconds_each, on_event, on_end)
            except KeyboardInterrupt:
                if not undisturbed:
                    raise
                undisturbed = False
                for job in waiting:
                    job.trace.stopped = Outcome.NOT_RUN
                waiting.clear()
                for worker in running:
                    worker.stop(Outcome.INTERRUPTED)
    finally:
        for worker in running:
            worker.kill()
    return undisturbed


def _step(
    events: queue.Queue[tuple[Worker, Any]],
    running: list[Worker],
    seconds_each: float,
    on_event: Callable[[Job], None],
    on_end: Callable[[Job], None],
) -> None:
    with contextlib.suppress(queue.Empty):
        worker, event = events.get(timeout=POLL)
        if event is None:
            running.remove(worker)
            worker.finish()
            on_end(worker.job)
        else:
            worker.take(event)
            on_event(worker.job)
    now = time.monotonic()
    for worker in running:
        if now - worker.started > seconds_each:
            worker.stop(Outcome.TIMEOUT)
        if now > worker.killed_at:
            worker.kill()


def kernel_environment(at_once: int, asked: dict[str, str]) -> dict[str, str]:
    """Return the kernels' environment: given variables, inline figures, a share of the cores."""
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", **asked}
    threads = str(max(1, available_cores() // at_once))
    for name in LIBRARIES:
        env.setdefault(name, threads)
    return env
