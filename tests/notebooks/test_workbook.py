"""The whole workbook in its smallest profile: every notebook ends ok, every claim holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.notebooks import sources
from labkit.runner.claims import load_expected

CHECKOUT = Path(__file__).resolve().parents[2]
NAMES = [source.stem for source in sources(CHECKOUT)]


@pytest.mark.skipif(not NAMES, reason="notebooks/src holds no notebook; add one to enable")
def test_workbook_in_the_smoke_profile(tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = [sys.executable, "-m", "labkit", "run", "--profile", "smoke", "--out", str(out)]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (out / "index.html").is_file(), run.stdout + run.stderr
    problems = []
    results = json.loads((out / "results.json").read_text())["notebooks"]
    for result in results:
        name = result["name"]
        if result["outcome"] != "ok" or result["cells"]["run"] != result["cells"]["total"]:
            problems.append((name, result["outcome"], result["reason"], result["error"]))
        if not result["claims"]:
            problems.append((name, "notebooks/expected.toml claims nothing for its smoke profile"))
        problems += [(name, claim) for claim in result["claims"] if not claim["holds"]]
    assert problems == []
    assert [result["name"] for result in results] == NAMES
    assert run.returncode == 0, run.stdout + run.stderr


def test_claims_are_about_notebooks_that_exist() -> None:
    assert set(load_expected(CHECKOUT / "notebooks" / "expected.toml")) <= set(NAMES)
