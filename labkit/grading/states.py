"""States of a submission, of a cell and of a probe, as ``harvest.json`` stores them."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """How the run of a submission ended."""

    OK = "ok"
    """Every cell ran without an exception."""

    CELL_ERROR = "cell-error"
    """A cell raised an exception or is not Python; everything else ran."""

    CELL_TIMEOUT = "cell-timeout"
    """A cell, a probe or the whole notebook ran longer than allowed."""

    OVER_LIMIT = "over-limit"
    """The notebook used more memory, processes or disk space than allowed."""

    FLOOD = "flood"
    """The notebook printed or displayed more than allowed."""

    DEAD_KERNEL = "dead-kernel"
    """The kernel exited or crashed."""

    PROTOCOL_VIOLATION = "protocol-violation"
    """The kernel sent a message that an unmodified kernel does not send."""

    BAD_NOTEBOOK = "bad-notebook"
    """The file is not a notebook, or it is too large; nothing was run."""

    INFRASTRUCTURE_ERROR = "infrastructure-error"
    """The sandbox or the grading process failed; the submission is not the cause."""


class CellStatus(StrEnum):
    """How the execution of a cell, or of a part of one, ended."""

    OK = "ok"
    """It ran to its end."""

    ERROR = "error"
    """It raised an exception or is not Python."""

    TIMEOUT = "timeout"
    """It was interrupted after the time limit."""

    FLOOD = "flood"
    """It was interrupted because of too much output."""

    ENDED = "ended"
    """The sandbox ended while it ran."""


class ProbeStatus(StrEnum):
    """What became of a probe."""

    ANSWERED = "answered"
    """The function returned at least one value."""

    RAISED = "raised"
    """The function raised an exception in every case."""

    REFUSED = "refused"
    """No return value could be transferred out of the sandbox."""

    MISSING = "missing"
    """The notebook does not define the function."""

    TIMEOUT = "timeout"
    """The cases took longer than allowed; the answers until then are kept."""

    NOT_RUN = "not-run"
    """The sandbox ended before the probe, or during it."""
