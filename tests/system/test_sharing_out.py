"""How the tests are dealt out to the workers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from helpers import sharing_out
from helpers.paths import CHECKOUT


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 7),
        (["tests/runner"], 7),
        (["tests/system/test_cpu_cores.py"], 0),
        (["tests/system/test_cpu_cores.py::test_machine_without_limits"], 0),
        (["tests/system/test_cpu_cores.py::one", "tests/system/test_cpu_cores.py::other"], 0),
        (["tests/system/test_cpu_cores.py", "tests/workbook/test_records.py"], 7),
        (["tests/notebooks/test_workbook.py"], 7),
        (["tests/notebooks/test_workbook.py::test_there_are_notebooks"], 0),
    ],
)
def test_workers(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: int) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(sharing_out, "available_cores", lambda: 6)
    assert sharing_out.workers(arguments) == expected


def test_the_longest_first_and_the_rest_as_it_was() -> None:
    names = ["tests/a.py::b", "tests/a.py::a", "tests/browser/c.py::c", "tests/attacks/d.py::d"]
    items = [SimpleNamespace(nodeid=name) for name in names]
    sharing_out.longest_first(items)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == [*reversed(names[2:]), *names[:2]]


@pytest.mark.parametrize(
    ("test", "scope"),
    [
        ("tests/a.py::b", "tests/a.py"),
        ("tests/browser/c.py::c", "tests/browser/"),
        ("tests/notebooks/test_workbook.py::d[1]", "tests/notebooks/test_workbook.py::d[1]"),
    ],
)
def test_what_one_worker_runs(test: str, scope: str) -> None:
    assert sharing_out.Files._split_scope(None, test) == scope  # type: ignore[arg-type]


def test_what_is_named_is_there() -> None:
    for name in (*sharing_out.ONE_BY_ONE, sharing_out.TOGETHER, *sharing_out.LONGEST):
        path, _, test = name.partition("::")
        test, _, first = test.partition("[")
        assert (CHECKOUT / path).exists(), path
        assert not test or f"def {test}" in (CHECKOUT / path).read_text(), name
        # The first parameter, a function of the module or of what it imports.
        assert not first or first.split("-")[0] in (CHECKOUT / path).read_text(), name
