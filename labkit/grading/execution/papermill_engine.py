"""A papermill engine that runs a notebook in the sandbox, with limits: ``--engine labkit-sandbox``.

Unlike papermill's own it goes on after a cell that fails, and within a cell after a statement that
fails, for what comes later may be right, and it says by itself how each cell ended. After the cells
the same kernel can be asked probes, which leave no trace in the notebook.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from labkit.grading.authoring.probes import Limits
from labkit.grading.execution.cell_analysis import SHOWN, mistake, steps
from labkit.grading.execution.kernel_client import Execution, Kernel, SandboxEnded
from labkit.grading.sandbox.levels import Level

WORST = ("protocol-violation", "over-limit", "flood", "dead-kernel", "cell-timeout", "cell-error")
MOST_FAILED = 10  # lines of a cell that are noted
STATES = {"error": "cell-error", "timeout": "cell-timeout", "flood": "flood"}


@dataclass
class Course:
    """How a notebook went.

    Attributes:
        state: ``ok`` or the worst that happened.
        message: a sentence about it.
        cells: of each code cell that was started: its metadata's mark, status (``ok``, ``error``,
            ``timeout``, ``flood`` or ``ended``), the exception's class, seconds, how many of its
            parts ``ran``, and ``failed``: line, text and exception's class of what raised and of
            what is no Python.
        guilty: the exercise during which the sandbox ended, its cell or a probe of it.
    """

    state: str = "ok"
    message: str = ""
    cells: list[dict[str, Any]] = field(default_factory=list)
    guilty: str | None = None

    def note(self, state: str, message: str) -> None:
        """Take in something that happened; the worst and first stays."""
        known = [*WORST, "ok"]
        if known.index(state) < known.index(self.state):
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
        course: Course | None = None,
        skip: frozenset[str] = frozenset(),
        afterwards: Callable[[Kernel], None] = lambda kernel: None,
        **_: Any,
    ) -> None:
        """Execute the notebook but the exercises to `skip`, then `afterwards` with its kernel.

        Raises:
            StartFailed: the kernel did not start.
        """
        limits, course = limits or Limits(), course or Course()
        with Kernel(limits, level, data) as kernel:
            try:
                kernel.forbid(forbidden)
                for index, cell in enumerate(nb_man.nb.cells):
                    mark = cell.metadata.get("labkit", {})
                    if (
                        cell.cell_type == "code"
                        and cell.source.strip()
                        and mark.get("exercise") not in skip
                    ):
                        cls._execute(nb_man, kernel, cell, index, course)
                afterwards(kernel)
            except SandboxEnded as error:
                course.note(error.state, str(error))

    @classmethod
    def _execute(cls, nb_man: Any, kernel: Kernel, cell: Any, index: int, course: Course) -> None:
        nb_man.cell_start(cell, index)
        entry = {"exercise": "", "role": "", **cell.metadata.get("labkit", {})}
        entry.update(status="ended", ename=None, seconds=0.0, failed=[], ran=0)
        course.cells.append(entry)
        began = time.monotonic()
        try:
            parts = steps(cell.source)
            found = kernel.execute_steps(parts, kernel.limits.cell_seconds)
        except SandboxEnded:
            course.guilty = entry["exercise"]
            entry["seconds"] = round(time.monotonic() - began, 3)
            nb_man.cell_exception(cell, cell_index=index)
            raise
        failed = failed_lines(cell.source, parts, found)
        if failed and found.status == "ok":
            found.status, found.ename = "error", failed[0]["ename"]
        entry.update(status=found.status, ename=found.ename, seconds=round(found.seconds, 3))
        entry.update(failed=failed, ran=len(parts) - len(found.failed))
        cell.outputs = [nbformat.from_dict(output) for output in joined(found.outputs)]
        if found.status != "ok":
            nb_man.cell_exception(cell, cell_index=index)
            where = f"exercise {entry['exercise']}" if entry["exercise"] else "a cell beside them"
            course.note(STATES[found.status], f"{where}: {_words(found)}")
        nb_man.cell_complete(cell, cell_index=index)


def failed_lines(
    source: str, parts: list[tuple[int, str]], found: Execution
) -> list[dict[str, Any]]:
    """Return which lines of a cell failed: they raised, or are no Python."""
    code = dict(parts)
    failed = [
        {"line": line, "text": code[line].strip().partition("\n")[0][:SHOWN], "ename": ename}
        for line, ename in found.failed[:MOST_FAILED]
    ]
    wrong = mistake(source)
    if wrong is None:
        return failed
    # A cell that is one part failed because of the mistake; else its other parts ran.
    rest = failed if code.keys() != {1} or code[1] != source else []
    first = {"line": wrong.line, "text": wrong.text, "ename": "SyntaxError"}
    return [{**first, "message": wrong.message}, *rest]


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbouring texts of one stream, of which there can be thousands."""
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


def _words(found: Execution) -> str:
    if found.status == "error":
        return f"raised {found.ename}"
    return "took too long" if found.status == "timeout" else "too much output"
