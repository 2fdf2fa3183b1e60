"""From one submission to its answers: ``python -m labkit.grading.execution.execute``.

Each line of standard input is a task in JSON:

==================  ===============================================================================
``submission``      the notebook's path
``name``            what the submission is called; by default the file's name
``assignment_dir``  the assignment's folder
``out``             the folder for ``harvest.json`` and ``executed.ipynb``
``isolation``       one of :class:`labkit.grading.sandbox.levels.Level`; by default the strongest
==================  ===============================================================================

Every task runs in a process of its own, forked from one that has loaded the libraries: importing
them would take longer than grading. When a task is done, one JSON line on standard output says
``{"out": ..., "state": ...}``. ``harvest.json`` is written last, and whole; a task without one has
not been harvested. Nothing here compares answers: see :mod:`labkit.grading.scoring.score`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment, load_assignment
from labkit.grading.intake import notebook_reader
from labkit.grading.sandbox.isolation import choose
from labkit.grading.sandbox.levels import Level
from labkit.grading.sandbox.limits import (
    adopt_orphans,
    die_with_parent,
    kill_orphans,
    peak,
    resident,
)
from labkit.system.atomic_write import atomic_write
from labkit.system.paths import WORKBOOK
from labkit.workbook.notebook_sources import other_language

VERSION = 1
MOST_STARTS = 3
NOT_RUN: dict[str, Any] = {"status": "not-run", "ename": None, "answers": [], "seconds": 0.0}


def harvest(task: dict[str, Any]) -> dict[str, Any]:
    """Harvest one submission in this process and write its folder; return ``harvest.json``.

    Raises:
        LabkitError: the task itself is wrong, or its folder cannot be written. Whatever is wrong
            with the submission stands in the result.
    """
    began, resident_before = time.monotonic(), resident(os.getpid())
    path, out = Path(task["submission"]), Path(task["out"])
    content = _read(path)
    result: dict[str, Any] = {
        "version": VERSION,
        "submission": str(task.get("name") or path.name),
        "content_hash": hashlib.sha256(content).hexdigest(),
        "state": "ok",
        "message": "",
        "isolation": str(task.get("isolation") or choose()),
        "forbidden": [],
        "cells": [],
        "probes": {},
        "with_solutions": {},
        "questions": {},
        "doubts": {},
        "remarks": {},
        "language": "",
        "environment": _environment(),
    }
    notebook: Any = None
    bad: str | None = None
    try:
        parsed = notebook_reader.parse(content)
    except notebook_reader.BadNotebook as error:
        bad = str(error)
    loaded = load_assignment(Path(task["assignment_dir"]))
    result.update(assignment=loaded.name, assignment_hash=loaded.hash)
    result["probes"] = {probe.name: copy.deepcopy(NOT_RUN) for probe in loaded.assignment.probes}
    result["questions"] = {question.name: "" for question in loaded.assignment.questions}
    if bad is None:
        try:
            cells = notebook_reader.cells_of(parsed, loaded.assignment.limits)
            result["language"] = other_language(parsed)
        except notebook_reader.BadNotebook as error:
            bad = str(error)
    if bad is None:
        notebook = _run(cells, loaded, result)
    else:
        result.update(state="bad-notebook", message=bad)
    result["seconds"] = {**result.get("seconds", {}), "total": round(time.monotonic() - began, 3)}
    # How far the output and the answers have swollen this process.
    result["grader_mb"] = round(max(0, peak() - resident_before) / 1e6, 1)
    if notebook is not None:
        _write(out / "executed.ipynb", _notebook_text(notebook))
    _write(out / "harvest.json", json.dumps(result, ensure_ascii=True, allow_nan=False))
    return result


def harvest_apart(submission: Path, assignment_dir: Path, out: Path, **task: Any) -> dict[str, Any]:
    """Harvest one submission in a process of its own; return what it says.

    Raises:
        LabkitError: the process failed.
    """
    task = {
        **task,
        "submission": str(submission.resolve()),
        "assignment_dir": str(assignment_dir.resolve()),
        "out": str(out.resolve()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "labkit.grading.execution.execute"],
        input=json.dumps(task) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise LabkitError(f"{submission}: the harvest failed: {done.stderr.strip()[-500:]}")
    reply: dict[str, Any] = json.loads(lines[-1])
    if "error" in reply:
        raise LabkitError(reply["error"])
    return reply


def main() -> None:
    """Fork a process for every task on standard input."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no reply
    prepared = set[str]()
    # Not through sys.stdin, which would read ahead and leave the rest to the fork.
    for line in iter(sys.stdin.readline, ""):
        if line.strip():
            task = json.loads(line)
            if task["assignment_dir"] not in prepared:
                prepared.add(task["assignment_dir"])
                _prepare(Path(task["assignment_dir"]))
            replies.write(json.dumps(_fork(task)) + "\n")
            replies.flush()


def _prepare(folder: Path) -> None:
    """Import here, once, what every task will need."""
    import papermill.engines  # noqa: F401

    try:
        load_assignment(folder)  # with whatever its probes import
    except LabkitError:
        return  # every task says so
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # threads do not survive a fork


def _fork(task: dict[str, Any]) -> dict[str, Any]:
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading_end)
            die_with_parent()
            reply = _perform(task)
            with os.fdopen(writing_end, "w", encoding="utf-8") as pipe:
                pipe.write(json.dumps(reply))
            status = 0
        finally:
            kill_orphans()
            os._exit(status)
    os.close(writing_end)
    with os.fdopen(reading_end, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    reply = json.loads(text) if text else {"error": "the process that harvested died"}
    return {"out": task["out"], **reply}


def _perform(task: dict[str, Any]) -> dict[str, Any]:
    adopt_orphans()
    try:
        return {"state": harvest(task)["state"]}
    except LabkitError as error:
        return {"error": str(error)}
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _run(
    cells: list[notebook_reader.StudentCell], loaded: LoadedAssignment, result: dict[str, Any]
) -> Any:
    """Lift, execute and ask; fill in the result and return the executed notebook."""
    from labkit.grading.execution.extract_answers import lift, with_solutions
    from labkit.grading.execution.kernel_client import StartFailed
    from labkit.grading.execution.papermill_engine import Course, SandboxEngine
    from labkit.grading.execution.run_probes import Interview

    lifted = lift(cells, loaded)
    result.update(
        questions=lifted.free_text.answers,
        doubts=lifted.free_text.doubts,
        forbidden=list(lifted.forbidden),
        remarks=lifted.remarks,
    )
    notebook = lifted.notebook
    assignment, course = loaded.assignment, Course()
    data = _data(loaded)
    deadline = time.monotonic() + assignment.limits.total_seconds

    def run(
        notebook: Any, course: Course, answers: dict[str, Any], given_up: frozenset[str]
    ) -> frozenset[str]:
        notebook.metadata["papermill"] = type(notebook.metadata)()
        interview = Interview(loaded, result["content_hash"], answers, course)
        # An exercise that brings the kernel down takes no other with it: once more without.
        for _ in range(MOST_STARTS):
            left = deadline - time.monotonic()
            course.cells = [cell for cell in course.cells if cell["exercise"] in given_up]
            course.guilty, interview.given_up = None, given_up
            SandboxEngine.execute_notebook(
                notebook,
                "python3",
                progress_bar=False,
                limits=replace(assignment.limits, total_seconds=left),
                level=Level(result["isolation"]),
                data=data,
                forbidden=assignment.forbidden,
                course=course,
                skip=given_up,
                afterwards=interview.hold,
            )
            if not course.guilty or course.state == "protocol-violation":
                break
            given_up |= {course.guilty}
            if time.monotonic() > deadline - 1:
                break
        return given_up

    try:
        given_up = run(notebook, course, result["probes"], frozenset())
        # Each set of solutions in a run of its own: an exercise may be given to one probe and be
        # what another one asks.
        for given in dict.fromkeys(probe.given for probe in assignment.probes if probe.given):
            if course.state == "protocol-violation" or time.monotonic() > deadline - 1:
                break
            answers = {
                probe.name: copy.deepcopy(NOT_RUN)
                for probe in assignment.probes
                if probe.given == given
            }
            second = Course()
            run(with_solutions(notebook, given, loaded), second, answers, given_up)
            if second.state != "protocol-violation":
                result["with_solutions"].update(answers)
    except StartFailed as error:
        course.state, course.message = "infrastructure-error", str(error)
    result.update(state=course.state, message=course.message, cells=course.cells)
    spent = sum(cell["seconds"] for cell in course.cells)
    asked = sum(probe["seconds"] for probe in result["probes"].values())
    result["seconds"] = {"cells": round(spent, 3), "probes": round(asked, 3)}
    return notebook


def _data(loaded: LoadedAssignment) -> tuple[Path, ...]:
    """What an assignment names: beside its folder of assignments, or what comes with labkit."""
    root = loaded.folder.parents[1]
    paths = []
    for name in loaded.assignment.data:
        places = [(folder / name).resolve() for folder in (root, WORKBOOK)]
        there = [path for path in places if path.exists()]
        if not there:
            raise LabkitError(
                f"{places[0]} does not exist, which assignment {loaded.name} names in data"
            )
        paths.append(there[0])
    return tuple(paths)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(notebook_reader.LARGEST)
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from error


def _notebook_text(notebook: Any) -> str:
    import nbformat

    return str(nbformat.writes(notebook)) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _environment() -> dict[str, str]:
    packages = ("labkit", "torch", "torchvision", "numpy", "ipykernel")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


if __name__ == "__main__":
    main()
