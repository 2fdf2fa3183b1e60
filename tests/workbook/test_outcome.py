"""The outcome is a pure function of what the worker reported: each case written out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.workbook.outcome import Outcome, Trace, decide_outcome


def trace(*events: dict[str, Any], **fields: Any) -> Trace:
    made = Trace(**fields)
    for event in events:
        made.add(event)
    return made


PLAN = {"event": "plan", "cells": [1, 3], "skipped": []}
END = {"event": "end", "error": None, "message": ""}


def start(cell: int) -> dict[str, Any]:
    return {"event": "execute", "cell": cell}


def done(cell: int, error: str | None = None, *, asked_to_exit: bool = False) -> dict[str, Any]:
    return {
        "event": "executed",
        "cell": cell,
        "error": error,
        "message": "",
        "asked_to_exit": asked_to_exit,
    }


def ended(error: str) -> dict[str, Any]:
    return {"event": "end", "error": error, "message": "so it says"}


GOOD = [PLAN, start(1), done(1), start(3), done(3)]


@pytest.mark.parametrize(
    ("events", "fields", "outcome", "cell"),
    [
        ([*GOOD, END], {}, Outcome.OK, None),
        ([PLAN, start(1), done(1, "ValueError"), END], {}, Outcome.FAILED, 1),
        # papermill itself calls these a success
        (
            [PLAN, start(1), done(1, "SystemExit", asked_to_exit=True), END],
            {},
            Outcome.EXITED_EARLY,
            1,
        ),
        ([PLAN, start(1), done(1), END], {}, Outcome.EXITED_EARLY, 3),
        ([PLAN, start(1), done(1), start(3), END], {}, Outcome.EXITED_EARLY, 3),
        # exit() in a notebook is a request; the kernel is dead by the next cell
        (
            [PLAN, start(1), done(1, asked_to_exit=True), start(3), ended("DeadKernelError")],
            {},
            Outcome.EXITED_EARLY,
            1,
        ),
        ([PLAN, start(1), ended("DeadKernelError")], {}, Outcome.KERNEL_DIED, 1),
        ([PLAN, ended("RuntimeError")], {}, Outcome.KERNEL_DIED, None),
        ([PLAN, start(1), ended("OSError")], {}, Outcome.FAILED, 1),
        # the process vanished
        ([PLAN, start(1)], {"returncode": -9}, Outcome.FAILED, 1),
        (
            [PLAN, start(1), ended("KeyboardInterrupt")],
            {"stopped": Outcome.TIMEOUT},
            Outcome.TIMEOUT,
            1,
        ),
        ([PLAN, start(1)], {"stopped": Outcome.INTERRUPTED}, Outcome.INTERRUPTED, 1),
        # an error before the deadline is the truth, and so is a last cell that just made it
        ([PLAN, start(1), done(1, "ValueError")], {"stopped": Outcome.TIMEOUT}, Outcome.FAILED, 1),
        ([*GOOD, END], {"stopped": Outcome.TIMEOUT}, Outcome.OK, None),
        (
            [*GOOD, {"event": "hidden-error", "error": "ValueError", "message": "x"}, END],
            {},
            Outcome.FAILED,
            None,
        ),
    ],
)
def test_judge(
    events: list[dict[str, Any]], fields: dict[str, Any], outcome: Outcome, cell: int | None
) -> None:
    verdict = decide_outcome(trace(*events, **fields), set(), {})
    assert (verdict.outcome, verdict.cell) == (outcome, cell)
    assert bool(verdict.reason) == (outcome is not Outcome.OK)


def test_expected_error_is_no_failure() -> None:
    events = [PLAN, start(1), done(1, "ValueError"), start(3), done(3), END]
    assert decide_outcome(trace(*events), {1}, {1: "ValueError: x"}).outcome is Outcome.OK
    assert decide_outcome(trace(*events), {3}, {1: "ValueError: x"}).outcome is Outcome.FAILED


def test_error_shown_by_a_cell_that_replied_ok() -> None:
    verdict = decide_outcome(trace(*GOOD, END), set(), {3: "ValueError: x"})
    assert (verdict.outcome, verdict.cell, verdict.reason) == (Outcome.FAILED, 3, "ValueError: x")
