"""What is kept of one executed submission: the schema of ``harvest.json``.

Scoring and all reports read this file and never the submission itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.execution.remarks import Remarks
from labkit.grading.states import CellStatus, ProbeStatus, State
from labkit.system.atomic_write import atomic_write
from labkit.system.typed_json import from_json

FILE = "harvest.json"
VERSION = 1
OPTIONAL = {"inputs", "syntax", "message"}
"""Fields that are left out of the file where they are None."""


@dataclass(frozen=True)
class FailedLine:
    """A line of a cell that raised an exception or is not Python.

    Attributes:
        line: its number, from 1.
        text: the line, shortened.
        ename: the class of the exception.
        message: Python's message about a syntax error.
    """

    line: int
    text: str
    ename: str | None
    message: str | None = None


@dataclass
class CellRun:
    """The execution of one code cell.

    Attributes:
        exercise: the exercise that the cell answers; empty for other cells.
        role: ``setup``, ``helper`` or ``solution``; empty for answers.
        status: how the execution ended.
        ename: the class of the first exception.
        failed: the lines that failed.
        ran: the number of parts of the cell that ran without an exception.
    """

    exercise: str = ""
    role: str = ""
    status: CellStatus = CellStatus.ENDED
    ename: str | None = None
    seconds: float = 0.0
    failed: list[FailedLine] = field(default_factory=list)
    ran: int = 0


@dataclass
class ProbeRun:
    """The answers to one probe.

    Attributes:
        status: what became of the probe.
        ename: the class of the exception, where every case raised.
        answers: one entry a case: an encoded value, ``{"raised": CLASS}`` or
            ``{"refused": REASON}``. Scoring decodes and checks them.
        inputs: the digest of the cases that were sent.
    """

    status: ProbeStatus = ProbeStatus.NOT_RUN
    ename: str | None = None
    answers: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    inputs: str | None = None


@dataclass
class Harvest:
    """The content of ``harvest.json``.

    Attributes:
        submission: the name of the submission.
        content_hash: SHA-256 of the submitted file.
        state: how the run ended.
        message: one sentence about the state.
        isolation: the level of isolation of the kernel.
        forbidden: names that answers use although the assignment forbids them.
        cells: the cells that were executed.
        probes: the answers, by the name of the probe.
        with_solutions: the answers in the runs with the instructor's solutions.
        questions: the free-text answers, by the name of the question.
        doubts: by question, why an answer may have been missed.
        remarks: by exercise, problems that the syntax of the answer shows.
        language: the language of the notebook, where that is not Python.
        seconds: ``cells``, ``probes`` and ``total``.
        grader_mb: the memory by which this run enlarged the grading process.
    """

    submission: str
    content_hash: str
    assignment: str
    assignment_hash: str
    state: State
    cells: list[CellRun]
    probes: dict[str, ProbeRun]
    questions: dict[str, str]
    message: str = ""
    isolation: str = ""
    forbidden: list[str] = field(default_factory=list)
    with_solutions: dict[str, ProbeRun] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, Remarks] = field(default_factory=dict)
    language: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    grader_mb: float = 0.0
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write ``harvest.json``, completely or not at all.

        Raises:
            LabkitError: the file cannot be written.
        """
        content = asdict(self, dict_factory=_without_absent)
        with (
            atomic_write(folder / FILE) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            file.write(json.dumps(content, ensure_ascii=True, allow_nan=False))
            file.flush()
            os.fsync(file.fileno())


def read_harvest(folder: Path) -> Harvest:
    """Read the ``harvest.json`` of a folder.

    Raises:
        LabkitError: the file is missing, damaged, or from another version of labkit.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabkitError(f"{folder}: no {FILE}; grade this submission first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LabkitError(f"{path}: cannot be read ({error}); grade again") from error
    try:
        if isinstance(content, dict) and content.get("version", VERSION) != VERSION:
            raise ValueError("it was written by another version of labkit")
        return from_json(Harvest, content)
    except ValueError as error:
        raise LabkitError(f"{path}: not a harvest: {error}; grade again") from error


def _without_absent(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not None or name not in OPTIONAL}
