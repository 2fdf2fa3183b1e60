"""Grading of all submissions to an assignment: ``labkit grade`` and ``labkit regrade``."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment, find_assignment, load_assignment
from labkit.grading.execution.executors import (
    dask_workers,
    execute_locally,
    execute_on_cluster,
    finished_state,
    local_workers,
)
from labkit.grading.execution.extract_answers import is_untouched
from labkit.grading.execution.manifest import (
    FILE,
    UNPACKED,
    GradingManifest,
    harvest_folder,
    read_manifest,
    require_usable,
    write_manifest,
)
from labkit.grading.execution.progress import GradingProgress
from labkit.grading.intake.late_policy import LatePolicy, read_policy
from labkit.grading.intake.submissions import Submission, collect
from labkit.grading.sandbox.isolation import choose
from labkit.grading.sandbox.levels import Level
from labkit.grading.sandbox.scratch import scratch_folder
from labkit.grading.scoring.finalize import GradingResult, counted_submissions, finalize
from labkit.grading.states import State
from labkit.system.cpu_cores import available_cores
from labkit.system.folder_lock import locked

MAX_TRIES = 3

Submit = Callable[[dict[str, Any]], "Future[dict[str, Any]]"]


@dataclass(frozen=True)
class GradingRequest:
    """The arguments of `labkit grade`.

    Attributes:
        out: by default a folder named after the assignment in ``runs/grading``.
        workers: by default one for every core.
        scheduler: the address of a Dask scheduler; by default submissions run on this machine.
        isolation: by default the strongest level.
        anonymous: by default as in the last grading, at first with names.
    """

    submissions: Path
    assignment: str
    out: Path | None = None
    workers: int | None = None
    scheduler: str | None = None
    late_policy: Path | None = None
    isolation: str | None = None
    allow_unsandboxed: bool = False
    anonymous: bool | None = None
    command: str = "labkit grade"


def grade(request: GradingRequest, console: Console) -> GradingResult:
    """Execute the submissions that have no harvest yet, score all, and write the gradebook.

    Raises:
        LabkitError: before anything runs: no submissions, no such assignment, an unreadable late
            policy, another output in the folder, no isolation, no scheduler.
    """
    loaded = load_assignment(find_assignment(request.assignment))
    policy = read_policy(request.late_policy) if request.late_policy else LatePolicy()
    out = (request.out or Path("runs", "grading", loaded.name)).resolve()
    require_usable(out, loaded.name)
    level = request.isolation
    if request.scheduler is None:  # on a cluster every machine chooses its own level
        level = str(choose(level, allow_unsandboxed=request.allow_unsandboxed))
        if request.isolation is None and level != Level.NAMESPACES:
            console.print(f"isolation: {level}", style="yellow", highlight=False)
    with locked(out, "labkit grade") as lock:
        found = collect(
            request.submissions,
            out / UNPACKED,
            loaded.name,
            without=out,
            untouched=lambda content: is_untouched(content, loaded),
        )
        anonymous = request.anonymous
        if anonymous is None:
            anonymous = (out / FILE).is_file() and read_manifest(out).anonymous
        grading = GradingManifest(
            assignment=loaded.name,
            folder=loaded.folder,
            late_policy=request.late_policy.resolve() if request.late_policy else None,
            command=request.command,
            students=found.students,
            problems=found.problems,
            anonymous=anonymous,
        )
        write_manifest(out, grading)
        wanted = dict[str, Submission]()
        for submitted in found.students:
            for one in counted_submissions(submitted, policy.counts):
                wanted.setdefault(one.content_hash, one)
        missing = [
            one
            for one in wanted.values()
            if finished_state(harvest_folder(out, one), loaded.hash) is None
        ]
        if missing and len(missing) < len(wanted):
            done = len(wanted) - len(missing)
            console.print(f"{done} of {len(wanted)} submissions have already been run")
        with (
            scratch_folder(out) as scratch,
            _workers(request, loaded, level, lock, scratch) as submit,
            GradingProgress(console, len(missing)) as progress,
        ):
            errors = execute_all(missing, out, loaded, submit, progress)
        return finalize(out, grading, loaded, policy, errors)


def regrade(
    out: Path,
    assignment: str | None = None,
    late_policy: Path | None = None,
    anonymous: bool | None = None,
) -> GradingResult:
    """Score the harvests of a grading again, without running anything.

    Args:
        out: the folder of the grading.
        assignment: by default the one of the grading, in its present version.
        late_policy: by default the file of the grading, in its present version.
        anonymous: show pseudonyms instead of names to the marker; None keeps the earlier choice.

    Raises:
        LabkitError: the folder has no grading, or its assignment or late policy is missing.
    """
    out = out.resolve()
    grading = read_manifest(out)
    if late_policy is not None:
        grading = replace(grading, late_policy=late_policy.resolve())
    if anonymous is not None:
        grading = replace(grading, anonymous=anonymous)
    loaded = load_assignment(find_assignment(assignment or str(grading.folder)))
    if loaded.name != grading.assignment:
        raise LabkitError(
            f"{out} contains the grading of {grading.assignment}, not of {loaded.name}"
        )
    policy = read_policy(grading.late_policy) if grading.late_policy else LatePolicy()
    with locked(out, "labkit regrade"):
        write_manifest(out, replace(grading, folder=loaded.folder))
        return finalize(out, grading, loaded, policy)


def execute_all(
    submissions: Sequence[Submission],
    out: Path,
    loaded: LoadedAssignment,
    submit: Submit,
    progress: GradingProgress,
) -> dict[str, str]:
    """Execute submissions; repeat an execution that failed through no fault of the submission.

    Returns:
        By content hash, why there is still no harvest.
    """
    tries, errors = Counter[str](), dict[str, str]()
    running = dict[Future[dict[str, Any]], Submission]()

    def start(submission: Submission) -> None:
        tries[submission.content_hash] += 1
        task = {
            "submission": str(submission.path),
            "name": submission.file,
            "assignment_dir": str(loaded.folder),
            "assignment_hash": loaded.hash,
            "out": str(harvest_folder(out, submission)),
        }
        running[submit(task)] = submission

    for submission in submissions:
        start(submission)
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            submission = running.pop(future)
            reply = _reply(future)
            state = str(reply.get("state", State.INFRASTRUCTURE_ERROR))
            failed = state == State.INFRASTRUCTURE_ERROR
            if failed and tries[submission.content_hash] < MAX_TRIES:
                start(submission)
                continue
            if "error" in reply:
                errors[submission.content_hash] = str(reply["error"])
            progress.end(submission.file, state)
    return errors


@contextlib.contextmanager
def _workers(
    request: GradingRequest,
    loaded: LoadedAssignment,
    level: str | None,
    lock: int | None,
    scratch: Path,
) -> Iterator[Submit]:
    seconds = loaded.assignment.limits.total_seconds
    if request.scheduler is not None:
        unsandboxed = request.allow_unsandboxed
        with dask_workers(request.scheduler) as executor:
            yield lambda task: executor.submit(
                execute_on_cluster, task, seconds, level, unsandboxed
            )
    else:
        with local_workers(request.workers or available_cores()) as executor:
            yield lambda task: executor.submit(
                execute_locally, {**task, "isolation": level}, seconds, lock, scratch
            )


def _reply(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except (Exception, CancelledError) as error:
        return {"error": f"the worker failed: {type(error).__name__}: {error}"}
