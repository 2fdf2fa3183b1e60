"""Executors of submissions: processes of this machine, or a Dask cluster.

Both are a :class:`concurrent.futures.Executor` for :func:`execute_locally` or
:func:`execute_on_cluster`. The process that executes submissions is a child of the thread that
uses it and dies with that thread, however the grader ends (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.execution.harvest import read_harvest
from labkit.grading.execution.submission_process import COMMAND
from labkit.grading.states import State
from labkit.system.folder_lock import locked
from labkit.system.processes import kill_tree

Task = dict[str, Any]
START_SECONDS = (
    300.0  # seconds beyond the time limit of a submission after which the process is killed
)
MAX_LOG_TAIL = 300  # characters of the output of a process that died
_local = threading.local()


class ExecutionServer:
    """A process that executes submissions in turn.

    Args:
        lock: a file descriptor that the process holds until it ends; see
            :func:`labkit.system.folder_lock.locked`.
        scratch: the folder for its sandboxes; by default the system's temporary folder.
    """

    def __init__(self, lock: int | None = None, scratch: Path | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(scratch),
            pass_fds=() if lock is None else (lock,),
            # Ctrl-C in the terminal reaches the grader alone, which then stops this process.
            start_new_session=True,
        )
        _servers.add(self)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def execute(self, task: Task, seconds: float) -> dict[str, Any]:
        """Execute one submission.

        Returns:
            ``{"state": ...}``, or ``{"error": ...}`` when there is no harvest.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            kill_tree(self._process)

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # the process has ended
            line = ""
        finally:
            timer.cancel()
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        status = self._process.wait()
        if late.is_set():
            return {"error": f"no answer within {seconds:.0f} s"}
        return {"error": f"the executing process died (status {status}): {self._log_tail()}"}

    def close(self) -> None:
        """Kill the process and all its descendants."""
        kill_tree(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _log_tail(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - MAX_LOG_TAIL))
        tail: bytes = self._log.read()
        return " ".join(tail.decode(errors="replace").split()) or "no output"


_servers: weakref.WeakSet[ExecutionServer] = weakref.WeakSet()


def execute_locally(
    task: Task, seconds: float, lock: int | None = None, scratch: Path | None = None
) -> dict[str, Any]:
    """Execute a submission in the process of this thread, which is started if necessary."""
    server: ExecutionServer | None = getattr(_local, "server", None)
    if server is not None and not server.alive:
        server.close()
    if server is None or not server.alive:
        server = _local.server = ExecutionServer(lock, scratch)
    return server.execute(task, seconds + START_SECONDS)


def execute_on_cluster(
    task: Task, seconds: float, wanted: str | None, allow_unsandboxed: bool
) -> dict[str, Any]:
    """Execute a submission on a machine of a cluster, which chooses its level of isolation.

    If another process is executing the same submission, for a grader that has died, wait for it.
    """
    from labkit.grading.sandbox.isolation import choose

    try:
        level = choose(wanted, allow_unsandboxed=allow_unsandboxed)
        with locked(Path(task["out"]), "labkit grade", seconds + START_SECONDS) as lock:
            done = finished_state(Path(task["out"]), task["assignment_hash"])
            if done is not None:
                return {"state": done}
            server = ExecutionServer(lock)
            try:
                return server.execute({**task, "isolation": str(level)}, seconds + START_SECONDS)
            finally:
                server.close()
    except LabkitError as error:
        return {"error": str(error)}


def close_servers() -> None:
    """Kill all execution servers of this process."""
    for server in list(_servers):
        server.close()


def finished_state(folder: Path, assignment_hash: str) -> State | None:
    """Return the state of a harvest that need not be repeated; otherwise None."""
    try:
        harvest = read_harvest(folder)
    except LabkitError:
        return None
    current = harvest.assignment_hash == assignment_hash
    failed = harvest.state is State.INFRASTRUCTURE_ERROR
    return harvest.state if current and not failed else None


@contextlib.contextmanager
def local_workers(workers: int) -> Iterator[Executor]:
    """Yield an executor for :func:`execute_locally`; all its processes are killed at the end."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="execute")
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        close_servers()
        executor.shutdown(wait=True)


@contextlib.contextmanager
def dask_workers(address: str) -> Iterator[Executor]:
    """Yield an executor for :func:`execute_on_cluster` on a Dask cluster.

    Raises:
        LabkitError: Dask is missing, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise LabkitError("--scheduler needs Dask; install it: uv sync --extra cluster") from error
    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise LabkitError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        # With pure=True, a repeated submission would get the cached reply.
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


def _environment(scratch: Path | None) -> dict[str, str]:
    # One thread for each process, because there is a process for each core.
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    folder = {} if scratch is None else {"TMPDIR": str(scratch)}
    return {**dict.fromkeys(threads, "1"), **os.environ, **folder}
