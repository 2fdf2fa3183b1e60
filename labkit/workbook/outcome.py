"""Outcome of a notebook, from all its cells and the end of its process."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MOST = 200_000_000  # characters that one cell may show before it is stopped


class Outcome(StrEnum):
    """Outcome of a notebook."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    KERNEL_DIED = "kernel-died"
    EXITED_EARLY = "exited-early"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not-run"


@dataclass
class CellTrace:
    """Events of one started code cell; positions are those in the executed notebook."""

    index: int
    done: bool = False
    error: str | None = None
    message: str = ""
    asked_to_exit: bool = False


@dataclass
class Trace:
    """All events of one notebook."""

    planned: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    cells: dict[int, CellTrace] = field(default_factory=dict)
    hidden_errors: list[str] = field(default_factory=list)
    ended: bool = False
    error: str | None = None
    message: str = ""
    flooded: int | None = None  # the cell that showed too much
    stopped: Outcome | None = None
    returncode: int | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Add one event of the worker."""
        match event["event"]:
            case "plan":
                self.planned, self.skipped = event["cells"], event["skipped"]
            case "execute":
                self.cells[event["cell"]] = CellTrace(event["cell"])
            case "executed":
                cell = self.cells[event["cell"]]
                cell.done = True
                cell.error, cell.message = event["error"], event["message"]
                cell.asked_to_exit = event["asked_to_exit"]
            case "flood":
                self.flooded = event["cell"]
            case "hidden-error":
                self.hidden_errors.append(f"{event['error']}: {event['message']}")
            case "end":
                self.ended, self.error, self.message = True, event["error"], event["message"]

    @property
    def done(self) -> int:
        """Number of finished cells."""
        return sum(cell.done for cell in self.cells.values())

    @property
    def running(self) -> int | None:
        """Position of the cell that was started and not finished."""
        return next((cell.index for cell in self.cells.values() if not cell.done), None)


@dataclass(frozen=True)
class Verdict:
    """Outcome with its explanation and the cell that caused it."""

    outcome: Outcome
    reason: str = ""
    cell: int | None = None


def decide_outcome(trace: Trace, may_raise: set[int], errors_shown: dict[int, str]) -> Verdict:
    """Determine the outcome of a notebook.

    Args:
        trace: all events of the notebook.
        may_raise: positions of the cells tagged ``raises-exception``.
        errors_shown: errors found among the saved outputs, by cell position. A cell can show
            one although the kernel replied that all went well.
    """
    if trace.flooded is not None:
        reason = f"cell {trace.flooded + 1} showed more than {MOST / 1e6:g} MB and was stopped"
        return Verdict(Outcome.FAILED, reason, trace.flooded)
    for cell in trace.cells.values():
        if cell.asked_to_exit:
            return Verdict(Outcome.EXITED_EARLY, _exit_reason(cell, trace), cell.index)
        if cell.index in may_raise:
            continue
        if cell.error is not None:
            return Verdict(Outcome.FAILED, f"{cell.error}: {cell.message}", cell.index)
        if cell.done and cell.index in errors_shown:
            return Verdict(Outcome.FAILED, errors_shown[cell.index], cell.index)
    complete = trace.ended and trace.error is None
    if trace.stopped is not None and not complete:
        where = "" if trace.running is None else f" in cell {trace.running + 1}"
        reason = "the deadline passed" if trace.stopped is Outcome.TIMEOUT else "stopped by hand"
        return Verdict(trace.stopped, reason + where, trace.running)
    if trace.error == "DeadKernelError" or (
        trace.error is not None and trace.planned and not trace.cells
    ):
        reason = "the kernel died" if trace.cells else "the kernel did not start"
        return Verdict(Outcome.KERNEL_DIED, f"{reason}: {trace.message}", trace.running)
    if trace.error is not None:
        return Verdict(Outcome.FAILED, f"{trace.error}: {trace.message}", trace.running)
    if not trace.ended:
        return Verdict(
            Outcome.FAILED,
            f"the process that ran the notebook ended with status {trace.returncode}",
            trace.running,
        )
    never = [index for index in trace.planned if index not in trace.cells]
    if never or trace.running is not None:
        first = trace.running if trace.running is not None else never[0]
        return Verdict(Outcome.EXITED_EARLY, f"cell {first + 1} did not run to its end", first)
    if trace.hidden_errors:
        return Verdict(Outcome.FAILED, f"inside an Output widget: {trace.hidden_errors[0]}")
    return Verdict(Outcome.OK)


def _exit_reason(cell: CellTrace, trace: Trace) -> str:
    status = f" with {cell.message!r}" if cell.message not in {"", "0"} else ""
    left = len(trace.planned) - trace.done
    return f"cell {cell.index + 1} asked to exit{status}" + (
        f"; cells not run: {left}" if left else ""
    )
