"""Every notebook of the workbook in its smallest profile ends ok, and every claim holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.workbook.claims import load_expected
from labkit.workbook.notebook_sources import sources

NAMES = [source.stem for source in sources(CHECKOUT)]


def test_there_are_notebooks() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_in_the_smoke_profile(name: str, tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--profile", "smoke", "--out", str(out)]
    command = [sys.executable, "-m", "labkit", "run", name, *options]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (out / "index.html").is_file(), run.stdout + run.stderr
    (result,) = json.loads((out / "results.json").read_text())["notebooks"]
    assert result["name"] == name
    assert result["outcome"] == "ok", (result["reason"], result["error"])
    assert result["cells"]["run"] == result["cells"]["total"]
    assert result["claims"], "notebooks/expected.toml claims nothing for its smoke profile"
    assert [claim for claim in result["claims"] if not claim["holds"]] == []
    assert run.returncode == 0, run.stdout + run.stderr


def test_claims_are_about_notebooks_that_exist() -> None:
    assert set(load_expected(CHECKOUT / "notebooks" / "expected.toml")) <= set(NAMES)
