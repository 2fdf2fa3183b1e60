"""Execute one submission in this process: from its file to ``harvest.json``.

The answers are extracted, executed in the sandbox and probed; nothing here compares them. See
:mod:`labkit.grading.execution.submission_process` for the process in which this runs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment, load_assignment
from labkit.grading.execution.extract_answers import extract_answers, with_solutions
from labkit.grading.execution.harvest import Harvest, ProbeRun
from labkit.grading.execution.kernel_client import StartFailed
from labkit.grading.execution.papermill_engine import NotebookRun, SandboxEngine
from labkit.grading.execution.run_probes import ProbeRunner
from labkit.grading.intake import notebook_reader
from labkit.grading.sandbox.isolation import choose
from labkit.grading.sandbox.levels import Level
from labkit.grading.sandbox.limits import peak_memory, resident_memory
from labkit.grading.states import State
from labkit.system.atomic_write import atomic_write
from labkit.system.paths import WORKBOOK
from labkit.workbook.notebook_sources import other_language

MAX_STARTS = 3  # of the kernel


def run_submission(task: dict[str, Any]) -> Harvest:
    """Execute a submission and write ``harvest.json`` and ``executed.ipynb`` into its folder.

    Args:
        task: see :mod:`labkit.grading.execution.submission_process`.

    Raises:
        LabkitError: the task is wrong, or a file cannot be written. Whatever is wrong with the
            submission is recorded in the harvest.
    """
    began, memory_before = time.monotonic(), resident_memory(os.getpid())
    path, out = Path(task["submission"]), Path(task["out"])
    content = _read(path)
    isolation = str(task.get("isolation") or choose())
    bad: str | None = None
    try:
        parsed = notebook_reader.parse(content)
    except notebook_reader.BadNotebook as error:
        bad = str(error)
    loaded = load_assignment(Path(task["assignment_dir"]))
    harvest = Harvest(
        submission=str(task.get("name") or path.name),
        content_hash=hashlib.sha256(content).hexdigest(),
        assignment=loaded.name,
        assignment_hash=loaded.hash,
        state=State.OK,
        isolation=isolation,
        cells=[],
        probes={probe.name: ProbeRun() for probe in loaded.assignment.probes},
        questions={question.name: "" for question in loaded.assignment.questions},
        environment=_environment(),
    )
    if bad is None:
        try:
            cells = notebook_reader.cells_of(parsed, loaded.assignment.limits)
            harvest.language = other_language(parsed)
        except notebook_reader.BadNotebook as error:
            bad = str(error)
    notebook: Any = None
    if bad is None:
        notebook = _run(cells, loaded, harvest)
    else:
        harvest.state, harvest.message = State.BAD_NOTEBOOK, bad
    harvest.seconds["total"] = round(time.monotonic() - began, 3)
    harvest.grader_mb = round(max(0, peak_memory() - memory_before) / 1e6, 1)
    if notebook is not None:
        _write_notebook(out / "executed.ipynb", notebook)
    harvest.write(out)  # last: a folder without this file is executed again
    return harvest


def _run(
    cells: list[notebook_reader.StudentCell], loaded: LoadedAssignment, harvest: Harvest
) -> Any:
    """Extract, execute and probe the answers; fill in the harvest, return the executed notebook."""
    answers = extract_answers(cells, loaded)
    harvest.questions, harvest.doubts = answers.free_text.answers, answers.free_text.doubts
    harvest.forbidden, harvest.remarks = list(answers.forbidden), answers.remarks
    notebook, probes = answers.notebook, loaded.assignment.probes
    executor, run = _Executor(loaded, harvest), NotebookRun()
    try:
        skip = executor.execute(notebook, run, harvest.probes, frozenset())
        # A run for each set of solutions: an exercise may be given to one probe and be what
        # another one tests.
        for given in dict.fromkeys(probe.given for probe in probes if probe.given):
            if run.state is State.PROTOCOL_VIOLATION or executor.time_is_up():
                break
            results = {probe.name: ProbeRun() for probe in probes if probe.given == given}
            second = NotebookRun()
            executor.execute(with_solutions(notebook, given, loaded), second, results, skip)
            if second.state is not State.PROTOCOL_VIOLATION:
                harvest.with_solutions.update(results)
    except StartFailed as error:
        run.state, run.message = State.INFRASTRUCTURE_ERROR, str(error)
    harvest.state, harvest.message, harvest.cells = run.state, run.message, run.cells
    harvest.seconds["cells"] = round(sum(cell.seconds for cell in run.cells), 3)
    harvest.seconds["probes"] = round(sum(probe.seconds for probe in harvest.probes.values()), 3)
    return notebook


class _Executor:
    """Executes notebooks of one submission, all of them within its time limit."""

    def __init__(self, loaded: LoadedAssignment, harvest: Harvest) -> None:
        self.loaded, self.harvest = loaded, harvest
        self.data = _data(loaded)
        self.deadline = time.monotonic() + loaded.assignment.limits.total_seconds

    def time_is_up(self) -> bool:
        """Tell whether less than a second is left."""
        return time.monotonic() > self.deadline - 1

    def execute(
        self, notebook: Any, run: NotebookRun, results: dict[str, ProbeRun], skip: frozenset[str]
    ) -> frozenset[str]:
        """Execute a notebook and its probes; return the exercises that were skipped.

        When the sandbox ends, the notebook is executed again without the exercise that ended it,
        so that no other exercise loses its points.
        """
        notebook.metadata["papermill"] = type(notebook.metadata)()
        assignment = self.loaded.assignment
        runner = ProbeRunner(self.loaded, self.harvest.content_hash, results, run)
        for _ in range(MAX_STARTS):
            left = self.deadline - time.monotonic()
            run.cells = [cell for cell in run.cells if cell.exercise in skip]
            run.culprit, runner.skip = None, skip
            SandboxEngine.execute_notebook(
                notebook,
                "python3",
                progress_bar=False,
                limits=replace(assignment.limits, total_seconds=left),
                level=Level(self.harvest.isolation),
                data=self.data,
                forbidden=assignment.forbidden,
                run=run,
                skip=skip,
                afterwards=runner.run_all,
            )
            if not run.culprit or run.state is State.PROTOCOL_VIOLATION:
                break
            skip |= {run.culprit}
            if self.time_is_up():
                break
        return skip


def _data(loaded: LoadedAssignment) -> tuple[Path, ...]:
    """Return the data of an assignment: beside its folder, or shipped with labkit."""
    root = loaded.folder.parents[1]
    paths = []
    for name in loaded.assignment.data:
        places = [(folder / name).resolve() for folder in (root, WORKBOOK)]
        there = [path for path in places if path.exists()]
        if not there:
            raise LabkitError(
                f"{places[0]} does not exist; assignment {loaded.name} names it in data"
            )
        paths.append(there[0])
    return tuple(paths)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(notebook_reader.MAX_FILE_BYTES)
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from error


def _write_notebook(path: Path, notebook: Any) -> None:
    import nbformat

    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(str(nbformat.writes(notebook)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _environment() -> dict[str, str]:
    packages = ("labkit", "torch", "torchvision", "numpy", "ipykernel")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
