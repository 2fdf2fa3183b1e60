"""`labkit run` on small notebooks with real kernels: what papermill hides, and the report."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from rich.console import Console

from labkit.errors import LabkitError
from labkit.workbook.notebook_processes import kernel_environment
from labkit.workbook.records import RECORD_MIME
from labkit.workbook.run_workbook import RunRequest, run_workbook

GOOD = """
# %% [markdown]
# # A good lesson
# with a formula $x^2$ and a drawing ![a network](diagrams/network.svg)

# %% tags=["injected-parameters"]
raise RuntimeError("left behind by an earlier run")

# %% tags=["parameters"]
profile: str = "quick"
steps: int = 3

# %% tags=["skip-execution"]
raise RuntimeError("skipped")

# %% tags=["raises-exception"]
1 / 0

# %%
import sys
from pathlib import Path

from labkit import record

record("steps", steps)
record("twice", 1)
record("twice", 2.5)
record("interpreter", sys.executable)
record("folder", Path.cwd().name)
Path("made here.txt").write_text("x")

# %%
import matplotlib.pyplot as plt

plt.plot([1, 2])
plt.show()
"""
FAILING = """
# %% [markdown]
# # A lesson that fails

# %%
print("before")

# %%
def divide(a, b):
    return a / b

divide(1, 0)

# %%
print("after")
"""
SWALLOWED = """
# %%
import ipywidgets
with ipywidgets.Output():
    raise ValueError("nobody sees this")
"""
EXITS = "# %%\nprint(1)\n\n# %%\nimport sys\nsys.exit(0)\n\n# %%\nprint(2)\n"
QUITS = "# %%\nexit()\n\n# %%\nimport time\ntime.sleep(3)\n"
DIES = "# %%\nimport os\nos._exit(0)\n\n# %%\nprint(2)\n"
LOOPS = """
# %%
import subprocess, sys
from labkit import record
program = "import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
record("child", child.pid)

# %%
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    pass
"""
SLEEPS = (
    "# %%\nfrom labkit import record\nrecord('done', 1)\n\n# %%\nimport time\ntime.sleep(600)\n"
)

NOTEBOOKS = {
    "01_good": GOOD,
    "02_failing": FAILING,
    "03_swallowed": SWALLOWED,
    "04_exits": EXITS,
    "05_quits": QUITS,
    "06_dies": DIES,
    "07_loops": LOOPS,
    "08_sleeps": SLEEPS,
}
ENDING = list(NOTEBOOKS)[:6]
EXPECTED = """
[01_good.smoke]
steps = 3
twice = [2, 3]
[01_good.quick]
twice = [5, 6]
"nowhere" = 1
"""


def write_project(root: Path) -> Path:
    folder = root / "notebooks" / "src"
    folder.mkdir(parents=True)
    for name, source in NOTEBOOKS.items():
        (folder / f"{name}.py").write_text(source.lstrip())
    (root / "notebooks" / "expected.toml").write_text(EXPECTED)
    (root / "notebooks" / "diagrams").mkdir()
    (root / "notebooks" / "diagrams" / "network.svg").write_text("<svg/>")
    return root


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "labkit", "run", *arguments]


@dataclass
class Finished:
    root: Path
    out: Path
    status: int
    output: str

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.out / "results.json").read_text())

    def __getitem__(self, name: str) -> dict[str, Any]:
        return next(item for item in self.results["notebooks"] if item["name"] == name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All notebooks that end by themselves, run once."""
    root = write_project(tmp_path_factory.mktemp("project"))
    ran = subprocess.run(
        command(*ENDING, "--jobs", "2"), cwd=root, capture_output=True, text=True, check=False
    )
    return Finished(root, root / "runs" / "latest", ran.returncode, ran.stdout + ran.stderr)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "outcome", "cells_run", "reason"),
    [
        ("01_good", "ok", 4, ""),
        ("02_failing", "failed", 2, "ZeroDivisionError: division by zero"),
        ("03_swallowed", "failed", 1, "Output widget: ValueError: nobody sees this"),
        ("04_exits", "exited-early", 2, "cell 2 asked to exit; cells not run: 1"),
        # The kernel may run a further cell before it obeys exit().
        ("05_quits", "exited-early", None, "cell 1 asked to exit"),
        ("06_dies", "kernel-died", 0, "the kernel died"),
    ],
)
def test_outcome(
    finished: Finished, name: str, outcome: str, cells_run: int | None, reason: str
) -> None:
    result = finished[name]
    assert result["outcome"] == outcome, result
    assert cells_run in {None, result["cells"]["run"]}
    assert reason in result["reason"]
    assert f"{name}: {outcome} after" in finished.output


def test_status_and_last_line(finished: Finished) -> None:
    assert finished.status == 1
    assert finished.results["ok"] is False
    last = finished.output.strip().splitlines()[-1]
    assert last == f"report: {finished.out.resolve() / 'index.html'}"


def test_skipped_and_expected_errors(finished: Finished) -> None:
    assert finished["01_good"]["cells"] == {"total": 4, "run": 4, "skipped": 1}


def test_records(finished: Finished) -> None:
    good = finished["01_good"]
    assert good["profile"] == "quick"
    assert good["records"] == {
        "steps": 3,
        "twice": 2.5,
        "interpreter": sys.executable,
        "folder": "01_good",
    }
    notebook = nbformat.read(finished.out / "01_good.ipynb", as_version=4)
    data = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert {RECORD_MIME: {"name": "twice", "value": 2.5}} in data
    page = (finished.out / "01_good.html").read_text()
    assert "<b>steps</b> 3 · <b>twice</b> 2.5 · " in page


def test_claims_are_shown_and_leave_the_outcome_alone(finished: Finished) -> None:
    claims = {claim["name"]: claim["holds"] for claim in finished["01_good"]["claims"]}
    assert claims == {"twice": False, "nowhere": False}
    assert "claims: 0 of 2 within range" in finished.output
    index = (finished.out / "index.html").read_text()
    assert "out of range" in index
    assert "missing" in index


def test_failing_cell_is_reported(finished: Finished) -> None:
    error = finished["02_failing"]["error"]
    assert (error["cell"], error["execution_count"]) == (3, 2)
    assert "divide(1, 0)" in error["source"]
    assert any("ZeroDivisionError" in line for line in error["traceback"])
    index = (finished.out / "index.html").read_text()
    assert "divide(1, 0)" in index
    assert "\x1b[" not in index


def test_pages(finished: Finished) -> None:
    index = (finished.out / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', index)
    assert index.count('<img src="data:image/png;base64,') == 1
    for link in re.findall(r'href="([^#"]+)', index):
        assert (finished.out / link).is_file(), link
    page = (finished.out / "01_good.html").read_text()
    assert "<math " in page
    assert "<script" not in page
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page
    assert (finished.out / "diagrams" / "network.svg").read_text() == "<svg/>"
    anchor = re.search(r'href="01_good\.html#([^"]+)"><img', index)
    assert anchor is not None
    assert f'id="{anchor[1]}"' in page


def test_runs_do_not_litter_the_notebooks_folder(finished: Finished) -> None:
    assert (finished.out / "01_good" / "made here.txt").is_file()
    assert not (finished.out / "02_failing").exists()
    assert sorted(path.name for path in (finished.root / "notebooks").iterdir()) == [
        "diagrams",
        "expected.toml",
        "src",
    ]


def test_deadline_stops_the_notebook_and_all_its_processes(project: Path) -> None:
    report = run_workbook(
        RunRequest(notebooks=["loops"], timeout_minutes=8 / 60, out=project / "out"),
        Console(quiet=True),
    )
    (result,) = report.results
    assert not report.ok
    assert result.outcome == "timeout"
    assert result.reason == "the deadline passed in cell 2"
    assert result.failure is not None
    assert "while True" in result.failure.source
    # What was computed before the deadline is kept; what was started is gone.
    child = result.records["child"]
    assert isinstance(child, int)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert (project / "out" / "07_loops.html").is_file()


def status_of(executed: Path, cell: str) -> str:
    """How far the cell with that text has come, in a notebook that is being executed."""
    with contextlib.suppress(ValueError, KeyError):  # half written, or not begun
        cells = json.loads(executed.read_text())["cells"]
        found = next(c for c in cells if cell in "".join(c["source"]))
        return str(found["metadata"]["papermill"]["status"])
    return ""


def test_ctrl_c_writes_the_report(project: Path) -> None:
    process = subprocess.Popen(
        command("sleeps", "good", "--jobs", "1", "--out", "out"),
        cwd=project,
        stdout=subprocess.PIPE,
    )
    executed = project / "out" / "08_sleeps.ipynb"
    deadline = time.monotonic() + 60
    while not (executed.is_file() and status_of(executed, "sleep(600)") == "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 1
    finished = Finished(project, project / "out", 1, "")
    assert finished["08_sleeps"]["outcome"] == "interrupted"
    assert finished["08_sleeps"]["records"] == {"done": 1}
    assert finished["01_good"]["outcome"] == "not-run"
    assert "not-run" in (project / "out" / "index.html").read_text()


def test_parameters_reach_the_notebook(project: Path) -> None:
    request = RunRequest(["1"], profile="smoke", parameters={"steps": "7"}, out=project / "out")
    (result,) = run_workbook(request, Console(quiet=True)).results
    assert result.outcome == "ok"
    assert result.parameters == {"profile": "smoke", "steps": 7}
    assert result.records["steps"] == 7
    assert result.claims == []  # they are about the defaults


def test_a_report_is_replaced_and_nothing_old_vouches_for_it(project: Path) -> None:
    out = project / "out"
    out.mkdir()
    for name in ("results.json", "index.html", "02_failing.ipynb", "02_failing.html"):
        (out / name).write_text("old")
    (result,) = run_workbook(RunRequest(["2"], out=out), Console(quiet=True)).results
    assert result.outcome == "failed"
    assert not [
        path.name for path in out.glob("*.*") if path.is_file() and path.read_text() == "old"
    ]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RunRequest(["nine"]), "no notebook 'nine'"),
        (RunRequest(["1"], parameters={"step": "7"}), "no parameter .step.: did you mean steps\\?"),
        (RunRequest(["1"], parameters={"steps": "x"}), "01_good: parameter steps = 'x'"),
        (RunRequest(["1", "2"], parameters={"steps": "7"}), "02_failing has no parameter 'steps'"),
        (RunRequest(["2"], profile="smoke"), "02_failing has no parameter 'profile'"),
        (RunRequest(["1"], profile="fast"), "unknown profile 'fast'"),
        (RunRequest(["1"], out=Path("notebooks")), "not a report"),
    ],
)
def test_bad_request_is_refused_before_anything_runs(
    project: Path, request_: RunRequest, message: str
) -> None:
    with pytest.raises(LabkitError, match=message):
        run_workbook(request_, Console(quiet=True))
    assert [path.name for path in project.iterdir()] == ["notebooks"]


def test_command_refuses_an_unknown_parameter(project: Path) -> None:
    ran = subprocess.run(
        command("1", "-p", "stepz=3"), cwd=project, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "error: 01_good has no parameter 'stepz': did you mean steps?" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (project / "runs").exists()


def test_as_many_at_a_time_as_cores_and_the_longest_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.workbook.run_workbook.available_cores", lambda: 2)
    (project / "notebooks" / "minutes.toml").write_text(
        "[quick]\n01_good = 1\n[smoke]\n01_good = 9\n"
    )
    console = Console(record=True, width=200, file=io.StringIO())
    report = run_workbook(RunRequest(["1", "6", "4"], out=project / "out"), console)
    assert report.jobs == 2
    assert [result.name for result in report.results] == ["01_good", "06_dies", "04_exits"]
    lines = console.export_text().splitlines()
    assert lines[0] == "3 notebooks, 2 at a time, the longest first"
    # What nothing is known of, and 1 last: the others have not ended when they are started.
    assert lines[1:3] == ["06_dies: started", "04_exits: started"]
    assert lines[-1].endswith("(3 of 3 notebooks done)")


@pytest.mark.parametrize(("jobs", "notebooks", "threads"), [(None, 1, 6), (4, 2, 3), (None, 9, 1)])
def test_notebooks_at_a_time_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int | None, notebooks: int, threads: int
) -> None:
    def run_jobs(jobs: list[Any], *, at_once: int, **_: Any) -> None:
        environments.append(kernel_environment(at_once, {}))

    environments: list[dict[str, str]] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("labkit.workbook.run_workbook.available_cores", lambda: 6)
    monkeypatch.setattr("labkit.workbook.notebook_processes.available_cores", lambda: 6)
    monkeypatch.setattr("labkit.workbook.run_workbook.run_jobs", run_jobs)
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    for number in range(notebooks):
        (folder / f"{number:02}_empty.py").write_text("# %%\n1\n")
    monkeypatch.chdir(tmp_path)
    run_workbook(RunRequest(jobs=jobs), Console(quiet=True))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # what somebody has chosen stays
    run_workbook(RunRequest(jobs=jobs), Console(quiet=True))
    assert [env["OMP_NUM_THREADS"] for env in environments] == [str(threads), "5"]
