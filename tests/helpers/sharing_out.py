"""Which worker runs which tests: a file stays whole, and the longest are begun first.

A file stays whole because its tests share fixtures that would otherwise be made by every worker.
A few files have long tests that share nothing: those are dealt out one by one. The files of the
browser share a JupyterLab and a Chromium, and stay together.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from labkit.system.cpu_cores import available_cores

ONE_BY_ONE = (
    "tests/assignments/test_assignments.py",
    "tests/notebooks/test_workbook.py",
)

TOGETHER = "tests/browser/"

# Beginnings of test ids, the longest first. What a worker begins last, the others wait for.
LONGEST = (
    "tests/attacks",
    "tests/assignments/test_assignments.py::test_graded_in_the_sandbox[check_solution-a3",
    "tests/assignments/test_assignments.py::test_graded_in_the_sandbox[check_solution-a2",
    "tests/assignments/test_assignments.py::test_graded_in_the_sandbox",
    "tests/browser",
    "tests/notebooks/test_workbook.py::test_notebook",
    "tests/assignments",
    "tests/workbook/test_run_workbook.py",
    "tests/grading",
    "tests/models",
    "tests/fuzzing",
    "tests/test_wheel.py",
    "tests/ops/test_build_kernels.py",
    "tests/cli/test_train_eval_predict.py",
)


class Files(LoadScopeScheduling):
    """xdist's own scheduling by scope, with files for scopes but for the exceptions above."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(TOGETHER):
            return TOGETHER
        return nodeid if file in ONE_BY_ONE else file


def workers(arguments: list[str]) -> int:
    """Return how many workers to start for the files and folders that were asked for.

    One file is run without workers (0): starting them would take longer than they save. Not so one
    of those whose tests are dealt out. There is one worker more than cores: often one of them
    waits, for a browser, a process or a time limit.
    """
    files = {argument.partition("::")[0] for argument in arguments}
    alone = len(files) == 1 and all(Path(file).is_file() for file in files)
    many = arguments[0].endswith(ONE_BY_ONE) if alone else True
    return available_cores() + 1 if many else 0


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests; those of no rank keep their order, at the end."""

    def rank(item: pytest.Item) -> int:
        ranks = (n for n, start in enumerate(LONGEST) if item.nodeid.startswith(start))
        return next(ranks, len(LONGEST))

    items.sort(key=rank)
