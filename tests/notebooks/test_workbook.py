"""Every notebook of the workbook in its smallest profile ends ok, and every claim holds.

What is run is the student's edition, untouched, with each check a second time after the solution
and all of them once more at the end. So the checks are seen before and after, a lesson goes on
whatever is left open, and a reader can return to an exercise after running everything.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.paths import CHECKOUT

from labkit.workbook.claims import load_expected
from labkit.workbook.exercises import is_check
from labkit.workbook.notebook_sources import load_notebook, sources

NAMES = [source.stem for source in sources(CHECKOUT)]


def test_there_are_notebooks() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_in_the_smoke_profile(name: str, tmp_path: Path) -> None:
    source = CHECKOUT / "notebooks" / "src" / f"{name}.py"
    notebook = load_notebook(source, student=True)
    checks = [cell for cell in notebook.cells if is_check(cell)]
    notebook.cells = [*with_second_checks(notebook.cells), *map(copy_of, checks)]
    path = tmp_path / f"{name}.ipynb"
    path.write_text(nbformat.writes(notebook))
    out = tmp_path / "report"
    options = ["--profile", "smoke", "--out", str(out)]
    command = [sys.executable, "-m", "labkit", "run", str(path), *options]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (out / "index.html").is_file(), run.stdout + run.stderr
    (result,) = json.loads((out / "results.json").read_text())["notebooks"]
    assert result["name"] == name
    assert result["outcome"] == "ok", (result["reason"], result["error"])
    assert result["cells"]["run"] == result["cells"]["total"]
    assert result["claims"], "notebooks/expected.toml claims nothing for its smoke profile"
    assert [claim for claim in result["claims"] if not claim["holds"]] == []
    assert run.returncode == 0, run.stdout + run.stderr
    executed = load_notebook(out / f"{name}.ipynb").cells
    summaries = [summary(cell) for cell in executed if is_check(cell)]
    in_place, at_the_end = summaries[: 2 * len(checks)], summaries[2 * len(checks) :]
    for before, after, again in zip(in_place[::2], in_place[1::2], at_the_end, strict=True):
        assert not passes(before), f"passes before anything is written: {before}"
        assert passes(after), f"the solution does not pass: {after}"
        assert passes(again), f"a later cell changes what the check needs: {again}"


def copy_of(cell: Any) -> Any:
    return nbformat.v4.new_code_cell(cell.source, metadata=cell.metadata)


def with_second_checks(cells: list[Any]) -> Iterator[Any]:
    """The cells, with a copy of each check after the solutions below it."""
    waiting = None
    for cell in cells:
        if waiting is not None and "solution" not in cell.metadata.get("labkit", {}):
            yield copy_of(waiting)
            waiting = None
        yield cell
        if is_check(cell):
            waiting = cell
    if waiting is not None:
        yield copy_of(waiting)


def summary(cell: Any) -> str:
    """The first line of a check's report."""
    texts = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return next(text.splitlines()[0] for text in texts if "checks pass" in text)


def passes(line: str) -> bool:
    """Whether a report says that all checks pass."""
    return re.search(r": (all \d+|1 of 1) checks pass$", line) is not None


def test_claims_are_about_notebooks_that_exist() -> None:
    assert set(load_expected(CHECKOUT / "notebooks" / "expected.toml")) <= set(NAMES)
