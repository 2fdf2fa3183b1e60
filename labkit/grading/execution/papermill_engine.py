"""A papermill engine that runs a notebook in the sandbox: ``--engine labkit-sandbox``.

Unlike papermill's own engine it continues after a cell, and within a cell after a statement, that
raised an exception: later answers may be right. It records how each cell ended. After the cells it
can run probes in the same kernel, which leave no trace in the notebook.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from labkit.grading.authoring.probes import Limits
from labkit.grading.execution.cell_analysis import MAX_SHOWN, split_steps, syntax_problem
from labkit.grading.execution.harvest import CellRun, FailedLine
from labkit.grading.execution.kernel_client import Execution, KernelClient, SandboxEnded
from labkit.grading.sandbox.levels import Level
from labkit.grading.states import CellStatus, State

WORST_FIRST = (
    State.PROTOCOL_VIOLATION,
    State.OVER_LIMIT,
    State.FLOOD,
    State.DEAD_KERNEL,
    State.CELL_TIMEOUT,
    State.CELL_ERROR,
    State.OK,
)
MAX_FAILED_LINES = 10  # of a cell
STATES = {
    CellStatus.ERROR: State.CELL_ERROR,
    CellStatus.TIMEOUT: State.CELL_TIMEOUT,
    CellStatus.FLOOD: State.FLOOD,
}


@dataclass
class NotebookRun:
    """The execution of a notebook, filled in by the engine and by the probes.

    Attributes:
        state: the worst state so far.
        message: a sentence about it.
        cells: the code cells that were started.
        culprit: the exercise whose cell or probe was running when the sandbox ended.
    """

    state: State = State.OK
    message: str = ""
    cells: list[CellRun] = field(default_factory=list)
    culprit: str | None = None

    def record(self, state: State, message: str) -> None:
        """Record a state; the worst one is kept, and of equal ones the first."""
        if WORST_FIRST.index(state) < WORST_FIRST.index(self.state):
            self.state, self.message = state, message


class SandboxEngine:
    """Runs the cells of a notebook in a sandboxed kernel of the running interpreter.

    It has the methods of papermill's ``Engine`` without being one, because papermill imports this
    module, through its entry point, while it is being imported itself.
    """

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **options: Any,
    ) -> Any:
        """Execute a notebook, as papermill wants it, and return it."""
        from papermill.engines import NotebookExecutionManager

        manager = NotebookExecutionManager(
            nb, output_path, log_output, progress_bar, autosave_cell_every
        )
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(manager, kernel_name, **options)
        finally:
            manager.cleanup_pbar()
            manager.notebook_complete()
        return manager.nb

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return a name for the kernel; which one runs does not depend on it."""
        return name or "python3"

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Return the language of the parameters."""
        return language or "python"

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        limits: Limits | None = None,
        level: Level | None = None,
        data: tuple[Path, ...] = (),
        forbidden: tuple[str, ...] = (),
        run: NotebookRun | None = None,
        skip: frozenset[str] = frozenset(),
        afterwards: Callable[[KernelClient], None] = lambda kernel: None,
        **_: Any,
    ) -> None:
        """Execute the notebook without the exercises to `skip`, then call `afterwards`.

        Raises:
            StartFailed: the kernel did not start.
        """
        limits, run = limits or Limits(), run or NotebookRun()
        with KernelClient(limits, level, data) as kernel:
            try:
                kernel.forbid(forbidden)
                for index, cell in enumerate(nb_man.nb.cells):
                    mark = cell.metadata.get("labkit", {})
                    if (
                        cell.cell_type == "code"
                        and cell.source.strip()
                        and mark.get("exercise") not in skip
                    ):
                        cls._execute(nb_man, kernel, cell, index, run)
                afterwards(kernel)
            except SandboxEnded as error:
                run.record(error.state, str(error))

    @classmethod
    def _execute(
        cls, nb_man: Any, kernel: KernelClient, cell: Any, index: int, run: NotebookRun
    ) -> None:
        nb_man.cell_start(cell, index)
        mark = cell.metadata.get("labkit", {})
        entry = CellRun(exercise=mark.get("exercise", ""), role=mark.get("role", ""))
        run.cells.append(entry)
        began = time.monotonic()
        try:
            parts = split_steps(cell.source)
            found = kernel.execute_steps(parts, kernel.limits.cell_seconds)
        except SandboxEnded:
            run.culprit = entry.exercise
            entry.seconds = round(time.monotonic() - began, 3)
            nb_man.cell_exception(cell, cell_index=index)
            raise
        failed = failed_lines(cell.source, parts, found)
        if failed and found.status is CellStatus.OK:
            found.status, found.ename = CellStatus.ERROR, failed[0].ename
        entry.status, entry.ename = found.status, found.ename
        entry.seconds = round(found.seconds, 3)
        entry.failed, entry.ran = failed, len(parts) - len(found.failed)
        cell.outputs = [nbformat.from_dict(output) for output in joined(found.outputs)]
        if found.status is not CellStatus.OK:
            nb_man.cell_exception(cell, cell_index=index)
            where = f"exercise {entry.exercise}" if entry.exercise else "a cell of no exercise"
            run.record(STATES[found.status], f"{where}: {_describe(found)}")
        nb_man.cell_complete(cell, cell_index=index)


def failed_lines(source: str, parts: list[tuple[int, str]], found: Execution) -> list[FailedLine]:
    """Return the lines of a cell that raised an exception or are not Python."""
    code = dict(parts)
    failed = [
        FailedLine(line, code[line].strip().partition("\n")[0][:MAX_SHOWN], ename)
        for line, ename in found.failed[:MAX_FAILED_LINES]
    ]
    wrong = syntax_problem(source)
    if wrong is None:
        return failed
    # A cell of one part failed because of the syntax error; otherwise its other parts ran.
    rest = failed if code.keys() != {1} or code[1] != source else []
    return [FailedLine(wrong.line, wrong.text, "SyntaxError", wrong.message), *rest]


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join consecutive texts of one stream; there can be thousands of them."""
    found = list[dict[str, Any]]()
    texts = list[list[str]]()
    for output in outputs:
        if output["output_type"] != "stream":
            found.append(output)
            continue
        last = found[-1] if found else None
        if last is None or last.get("name") != output["name"]:
            found.append({**output})
            texts.append([])
            found[-1]["parts"] = texts[-1]
        found[-1]["parts"].append(output["text"])
    for output in found:
        if "parts" in output:
            output["text"] = "".join(output.pop("parts"))
    return found


def _describe(found: Execution) -> str:
    if found.status is CellStatus.ERROR:
        return f"raised {found.ename}"
    return "took too long" if found.status is CellStatus.TIMEOUT else "too much output"
