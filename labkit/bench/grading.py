"""Measurements of grading: overhead, speed-up with two workers, recovery after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.authoring.release import write_notebook
from labkit.grading.execution.manifest import HARVESTS

MOST_OVERHEAD = 2.0  # seconds a submission beyond the student's own run time
LEAST_SPEEDUP = 1.8  # of two workers
LONGEST = 1800.0  # seconds that is waited for a grader
GONE = 20.0  # seconds for the processes of a killed grader to end
SOURCE = '''\
# %% exercise="double"
def double(x):
    """Return twice x."""
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% tags=["probes"]
ASSIGNMENT = Assignment(
    title="Twice",
    minutes=1,
    probes=[
        Probe(
            "values",
            "double",
            "double",
            2,
            lambda rng: [{"x": rng.normal(size=3)} for _ in range(3)],
            reference=lambda x: 2 * x,
        )
    ],
)
'''


@dataclass(frozen=True)
class GradingRun:
    """Times of one grading of many submissions.

    Attributes:
        submissions: how many.
        workers: at a time.
        seconds: from the command to its end.
        own_seconds: what the students' cells and the answers to the probes took, of all together.
        right: how many got the points that they should.
    """

    submissions: int
    workers: int
    seconds: float
    own_seconds: float
    right: int

    @property
    def overhead(self) -> float:
        """Seconds of a worker per submission, without the time of the student's code."""
        return (self.seconds * self.workers - self.own_seconds) / self.submissions


@dataclass(frozen=True)
class Survival:
    """Result of a grading in which a process was killed.

    Attributes:
        killed: what.
        submissions: how many.
        done: harvested when it was killed.
        lost: not graded, or wrongly, in the end.
        repeated: harvested before and harvested again after.
        left: processes of the killed one that were still there `GONE` seconds later.
        seconds: until the last of them was gone.
    """

    killed: str
    submissions: int
    done: int
    lost: int
    repeated: int
    left: int
    seconds: float

    @property
    def unharmed(self) -> bool:
        """Whether nothing was lost, repeated or left, and the kill was in the middle."""
        in_the_middle = 0 < self.done < self.submissions
        return in_the_middle and not (self.lost or self.repeated or self.left)


class SyntheticCourse:
    """An assignment of one function with students, every third of whom has a wrong answer."""

    def __init__(self, folder: Path, students: int) -> None:
        self.folder, self.students = folder, students
        self.assignment = folder / "assignments" / "twice"
        self.assignment.mkdir(parents=True)
        (self.assignment / "source.py").write_text(SOURCE, encoding="utf-8")
        notebook = load_assignment(self.assignment).notebook
        for number in range(students):
            factor = 3 if number % 3 == 2 else 2
            notebook.cells[0].source = f"def double(x):\n    return {factor} * x  # {number}\n"
            write_notebook(notebook, folder / "submissions" / f"student{number:03}.ipynb")

    def command(self, out: str, *options: str) -> list[str]:
        """Return the command that grades the course into a folder."""
        what = [str(self.folder / "submissions"), "--assignment", str(self.assignment)]
        where = ["--out", str(self.folder / out)]
        return [sys.executable, "-m", "labkit", "grade", *what, *where, *options]

    def grade(self, out: str, *options: str) -> float:
        """Grade and return the seconds.

        Raises:
            LabkitError: the command failed.
        """
        began = time.monotonic()
        done = subprocess.run(
            self.command(out, *options),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-500:]
            raise LabkitError(f"labkit grade failed: {said}")
        return time.monotonic() - began

    def harvests(self, out: str) -> dict[str, tuple[int, int]]:
        """Return what tells each harvest that is there from a later one of the same submission."""
        paths = (self.folder / out / HARVESTS).glob("*/harvest.json")
        return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    def right(self, out: str) -> int:
        """Return how many students got the points that they should."""
        import csv

        with (self.folder / out / "gradebook.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = {row["student"]: row["points"] for row in csv.DictReader(file)}
        return sum(
            rows.get(f"student{number:03}") == ("0" if number % 3 == 2 else "2")
            for number in range(self.students)
        )

    def run(self, workers: int) -> GradingRun:
        """Grade anew with that many workers."""
        out = f"out-{workers}"
        shutil.rmtree(self.folder / out, ignore_errors=True)
        seconds = self.grade(out, "--workers", str(workers))
        own = 0.0
        for path in (self.folder / out / HARVESTS).glob("*/harvest.json"):
            spent = json.loads(path.read_text(encoding="utf-8"))["seconds"]
            own += spent["cells"] + spent["probes"]
        return GradingRun(self.students, workers, seconds, own, self.right(out))


def survive_killed_grader(course: SyntheticCourse) -> Survival:
    """Kill the grader in the middle (SIGKILL), start it again, and check the results."""
    with _grader(course, "killed", "--workers", "2") as grader:
        _wait_for(course, "killed", grader)
        family = psutil.Process(grader.pid).children(recursive=True)
    before, began = course.harvests("killed"), time.monotonic()
    left = _gone(family)
    seconds = time.monotonic() - began
    course.grade("killed", "--workers", "2")
    return _survival("the grader", course, "killed", before, len(left), seconds)


def survive_killed_dask_worker(course: SyntheticCourse) -> Survival:
    """Kill one of the two workers of a Dask cluster on this machine while they grade.

    Raises:
        LabkitError: Dask is missing.
    """
    with (
        dask_cluster() as (address, workers),
        _grader(course, "dask", "--scheduler", address) as grader,
    ):
        candidates = [psutil.Process(pid) for pid in workers()]
        _wait_for(course, "dask", grader)
        worker = max(candidates, key=lambda process: len(process.children(recursive=True)))
        family = worker.children(recursive=True)
        worker.kill()
        before, began = course.harvests("dask"), time.monotonic()
        left = _gone(family)
        seconds = time.monotonic() - began
        if grader.wait(LONGEST):
            raise LabkitError(f"labkit grade failed with status {grader.returncode}")
    return _survival("a Dask worker", course, "dask", before, len(left), seconds)


@contextlib.contextmanager
def dask_cluster() -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Start a local Dask cluster of two workers; yield its address and its processes' function.

    Raises:
        LabkitError: Dask is missing.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise LabkitError("Dask is missing; install it: uv sync --extra cluster") from error
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster.scheduler_address, lambda: list(client.run(os.getpid).values())


def to_json(result: GradingRun | Survival) -> dict[str, Any]:
    """Return a result's numbers, computed ones included."""
    more = (
        {"overhead": result.overhead} if isinstance(result, GradingRun) else {"ok": result.unharmed}
    )
    return {**asdict(result), **more}


@contextlib.contextmanager
def _grader(course: SyntheticCourse, out: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    grader = subprocess.Popen(
        course.command(out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield grader
    finally:
        grader.kill()
        grader.wait()


def _wait_for(course: SyntheticCourse, out: str, grader: subprocess.Popen[bytes]) -> None:
    """Wait until a third of the submissions have been harvested."""
    deadline = time.monotonic() + LONGEST
    while len(course.harvests(out)) < course.students / 3:
        if grader.poll() is not None or time.monotonic() > deadline:
            raise LabkitError("labkit grade ended before anything could be killed")
        time.sleep(0.05)


def _gone(family: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until processes have ended; return those that have not."""
    _, left = psutil.wait_procs(family, timeout=GONE)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return list(left)


def _survival(
    killed: str,
    course: SyntheticCourse,
    out: str,
    before: dict[str, tuple[int, int]],
    left: int,
    seconds: float,
) -> Survival:
    after = course.harvests(out)
    return Survival(
        killed=killed,
        submissions=course.students,
        done=len(before),
        lost=course.students - course.right(out),
        repeated=sum(after.get(name) != mark for name, mark in before.items()),
        left=left,
        seconds=seconds,
    )
