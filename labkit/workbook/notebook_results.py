"""Result of each notebook of a run, and its JSON form."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from typing import Any

from labkit.errors import LabkitError
from labkit.workbook.claims import Claim, check_claims
from labkit.workbook.notebook_processes import Job
from labkit.workbook.notebook_sources import load_notebook
from labkit.workbook.outcome import Outcome, decide_outcome
from labkit.workbook.records import RECORD_MIME, Recorded


@dataclass(frozen=True)
class Failure:
    """The cell in which a notebook failed."""

    cell: int  # its position among all cells, from 1
    execution_count: int | None  # the number in its prompt, as in "In [3]"
    source: str
    traceback: list[str]  # lines with terminal colour codes


@dataclass(frozen=True)
class OutputImage:
    """One image among the outputs, with the id of its cell."""

    cell_id: str
    mime: str
    data: bytes


@dataclass
class NotebookResult:
    """Result of one notebook."""

    name: str
    title: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    cells: int = 0
    cells_run: int = 0
    cells_skipped: int = 0
    profile: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Recorded] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    failure: Failure | None = None
    pictures: list[OutputImage] = field(default_factory=list)
    executed: Any = None  # the executed notebook, None if it never started

    @property
    def claims_held(self) -> int:
        """Number of claims that hold."""
        return sum(claim.holds for claim in self.claims)

    def as_json(self) -> dict[str, Any]:
        """Convert to the entry of ``results.json``, without images and notebook."""
        return {
            "name": self.name,
            "title": self.title,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "cells": {"total": self.cells, "run": self.cells_run, "skipped": self.cells_skipped},
            "profile": self.profile,
            "parameters": self.parameters,
            "records": self.records,
            "claims": [asdict(claim) | {"holds": claim.holds} for claim in self.claims],
            "error": None if self.failure is None else asdict(self.failure),
        }


def collect_result(
    job: Job, profile: str | None, expected: dict[str, dict[str, Recorded]]
) -> NotebookResult:
    """Read the executed notebook of a finished job and determine its result.

    Args:
        profile: the used profile; None if the notebook has none.
        expected: the notebook's claims by profile. They are made for the parameters' defaults,
            so a run with other values is not held to them.
    """
    trace = job.trace
    notebook = _executed(job)
    cells = notebook.cells
    tags = [cell.metadata.get("tags", []) for cell in cells]
    shown = {
        index: f"{output.ename}: {output.evalue}"
        for index, cell in enumerate(cells)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    }
    if trace.stopped is Outcome.NOT_RUN:
        title = title_of(notebook, job.name)
        return NotebookResult(job.name, title, Outcome.NOT_RUN, profile=profile)
    may_raise = {index for index, names in enumerate(tags) if "raises-exception" in names}
    verdict = decide_outcome(trace, may_raise, shown)
    records = recorded(notebook)
    as_claimed = set(job.parameters) <= {"profile"}
    claims = check_claims(expected.get(profile or "", {}), records) if as_claimed else []
    failure = None
    if verdict.cell is not None and verdict.cell < len(cells):
        cell = cells[verdict.cell]
        traceback = [
            line
            for output in cell.get("outputs", [])
            if output.output_type == "error"
            for line in "\n".join(output.traceback).split("\n")
        ]
        failure = Failure(verdict.cell + 1, cell.get("execution_count"), cell.source, traceback)
    return NotebookResult(
        name=job.name,
        title=title_of(notebook, job.name),
        outcome=verdict.outcome,
        reason=verdict.reason,
        seconds=job.seconds,
        cells=len(trace.planned),
        cells_run=trace.done,
        cells_skipped=len(trace.skipped),
        profile=profile,
        parameters=job.parameters,
        records=records,
        claims=claims,
        failure=failure,
        pictures=output_images(notebook),
        executed=notebook,
    )


def recorded(notebook: Any) -> dict[str, Recorded]:
    """Collect the records of `labkit.record` in the outputs; later values of a name win."""
    return {
        output.data[RECORD_MIME]["name"]: output.data[RECORD_MIME]["value"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if RECORD_MIME in output.get("data", {})
    }


def output_images(notebook: Any) -> list[OutputImage]:
    """Collect the images among the outputs, in their order."""
    return [
        OutputImage(cell.get("id", ""), mime, base64.b64decode(output.data[mime]))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for mime in ("image/png", "image/jpeg")
        if mime in output.get("data", {})
    ]


def title_of(notebook: Any, name: str) -> str:
    """Return the notebook's first heading, or its name."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    return str(line[2:].strip())
    return name


def _executed(job: Job) -> Any:
    """Read the executed notebook; if a killed worker left no complete one, the original."""
    try:
        return load_notebook(job.output)
    except LabkitError:
        notebook = load_notebook(job.path)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []  # whatever is stored there is from another run
        return notebook
