"""What a cell shows is output_limits, whatever it prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from labkit.workbook import output_limits
from labkit.workbook.outcome import Outcome, Trace, decide_outcome
from labkit.workbook.output_limits import OVERHEAD, BoundedClient
from labkit.workbook.records import RECORD_MIME


@pytest.fixture
def flooded() -> list[int]:
    return []


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, flooded: list[int]) -> BoundedClient:
    monkeypatch.setattr(output_limits, "KEPT", 3000)
    monkeypatch.setattr(output_limits, "KEPT_OF_ALL", 5000)
    monkeypatch.setattr(output_limits, "MOST", 20_000)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1") for _ in range(3)])
    manager = SimpleNamespace(nb=notebook)
    client = BoundedClient(manager, kernel_name="python3", on_flood=flooded.append)
    client.reset_execution_trackers()
    client.clear_before_next_output = False
    return client


def message(kind: str, **content: Any) -> dict[str, Any]:
    header = {"msg_type": kind}
    return {"header": header, "msg_type": kind, "parent_header": {}, "content": content}


def show(client: BoundedClient, cell: int, *messages: dict[str, Any]) -> list[Any]:
    outputs: list[Any] = []
    for one in messages:
        client.output(outputs, one, None, cell)
    return outputs


def prints(text: str) -> dict[str, Any]:
    return message("stream", name="stdout", text=text)


def test_little_is_kept_as_it_is(client: BoundedClient, flooded: list[int]) -> None:
    outputs = show(client, 0, prints("one"), prints("two"))
    assert "".join(output.text for output in outputs) == "onetwo"
    assert flooded == []


def test_much_is_cut_with_one_note(client: BoundedClient, flooded: list[int]) -> None:
    outputs = show(client, 0, prints("x" * 1000), prints("y" * 9000), prints("z"), prints("z" * 99))
    text = "".join(output.text for output in outputs if output.name == "stdout")
    assert text.count("x") == 1000
    assert 0 < text.count("y") < 3000
    notes = [output.text for output in outputs if output.name == "stderr"]
    assert len(notes) == 1
    assert "the rest of this cell's output is left out" in notes[0]
    assert flooded == []


def test_endless_printing_is_reported_once(client: BoundedClient, flooded: list[int]) -> None:
    outputs = show(client, 1, *[prints("x" * 1000)] * 100)
    assert flooded == [1]
    assert sum(len(output.text) for output in outputs) < 3500


def test_all_cells_together_are_bounded(client: BoundedClient) -> None:
    kept = [show(client, cell, prints("x" * 2500)) for cell in range(3)]
    sizes = [sum(len(o.text) for o in outputs if o.name == "stdout") for outputs in kept]
    # Each output also counts for what it costs beside its text.
    assert sizes == [2500, 5000 - (2500 + OVERHEAD) - OVERHEAD, 0]


def test_errors_and_records_always_arrive(client: BoundedClient) -> None:
    error = message("error", ename="E", evalue="", traceback=["x" * 9000])
    record = {RECORD_MIME: {"name": "n", "value": 1}, "text/plain": "x" * 9000}
    outputs = show(
        client, 0, prints("x" * 9000), message("display_data", data=record, metadata={}), error
    )
    assert [output.output_type for output in outputs][-2:] == ["display_data", "error"]


def test_what_is_cleared_does_not_count(client: BoundedClient, flooded: list[int]) -> None:
    outputs: list[Any] = []
    for _ in range(50):
        client.output(outputs, prints("x" * 2000), None, 0)
        client.clear_output(outputs, message("clear_output", wait=False), 0)
    assert flooded == []
    assert outputs == []


def test_a_flood_is_the_outcome() -> None:
    trace = Trace()
    for event in (
        {"event": "plan", "cells": [0, 1], "skipped": []},
        {"event": "execute", "cell": 1},
        {"event": "flood", "cell": 1},
        {"event": "end", "error": "KeyboardInterrupt", "message": ""},
    ):
        trace.add(event)
    trace.stopped = Outcome.FAILED
    verdict = decide_outcome(trace, set(), {})
    assert verdict.outcome is Outcome.FAILED
    assert verdict.reason == "cell 2 showed more than 200 MB and was stopped"
    assert verdict.cell == 1
