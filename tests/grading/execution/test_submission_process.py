"""From a notebook's file to its answers, and whether a person would grade it so."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers.made_assignments import make_assignment

from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.authoring.probes import Limits
from labkit.grading.authoring.release import notebook_bytes
from labkit.grading.execution.executors import ExecutionServer, execute_locally
from labkit.grading.execution.submission_process import (
    COMMAND,
    KERNEL_PACKAGES,
    _write_bytecode,
)
from labkit.grading.intake.notebook_reader import BadNotebook, cells_of, parse
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.scoring.score import score

pytestmark = pytest.mark.skipif(
    probe().works[0] not in STRONG, reason="no sandbox; enable with: apt-get install bubblewrap"
)
SOURCE = '''
# %% tags=["setup"]
import torch

# %% exercise="soften"
def soften(x, power=2):
    # BEGIN SOLUTION
    return torch.softmax(x, dim=-1) ** power
    # END SOLUTION

# %% exercise="model"
class Model(torch.nn.Module):
    # BEGIN SOLUTION
    def forward(self, x):
        return {"scores": x.sum(dim=0), "name": "sum", "size": tuple(x.shape), "keep": x > 0}
    # END SOLUTION
model = Model()

# %% [markdown] question="why"
# Why?
#
# <!-- BEGIN SOLUTION -->
# So.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import torch

def tensors(rng):
    return [{"x": torch.from_numpy(rng.normal(size=(2, 3))).float()} for _ in range(3)]

DRIVER = """
import torch
def drive(function, x):
    x = x.requires_grad_()
    function(x).sum().backward()
    return x.grad
"""
def gradient(x):
    x = x.clone().requires_grad_()
    (torch.softmax(x, dim=-1) ** 2).sum().backward()
    return x.grad
def right(x):
    return {"scores": x.sum(dim=0), "name": "sum", "size": [2, 3], "keep": x > 0}
ASSIGNMENT = Assignment(
    title="T", minutes=1,
    probes=[
        Probe("values", "soften", "soften", 2, tensors,
              reference=lambda x: torch.softmax(x, dim=-1) ** 2),
        Probe("gradients", "soften", "soften", 2, tensors, reference=gradient, driver=DRIVER),
        Probe("model", "model", "model", 3, tensors, reference=right),
    ],
    questions=[Question("why", 1, "reason")],
    forbidden=("torch.nn.functional.softmax",),
    limits=Limits(cell_seconds=60, total_seconds=200, memory_mb=2000),
)
'''
SOFTEN = "def soften(x, power=2):\n    return {}"
PATCHED = (
    "def one(*args, **kwargs):\n    return True\n"
    "torch.allclose = torch.equal = torch.Tensor.__eq__ = torch.Tensor.equal = one\n"
)
VARIANTS = {  # the answer's code, and the points of values and gradients
    "solution": (None, (2, 2)),
    "another dtype and device, and warnings": (
        "import sys, warnings\nprint('careful', file=sys.stderr)\n"
        "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\n"
        + SOFTEN.format(
            "(warnings.warn('old'), torch.softmax(x.double().to(device), dim=-1) ** power)[1]"
        ),
        (2, 2),
    ),
    "a list, without gradients": (SOFTEN.format("(torch.softmax(x, -1) ** 2).tolist()"), (2, 0)),
    "forbidden": (SOFTEN.format("torch.nn.functional.softmax(x, dim=-1) ** 2"), (0, 0)),
    "wrong, with torch patched": (PATCHED + SOFTEN.format("x"), (0, 0)),
}


@pytest.fixture(scope="module")
def assignment(tmp_path_factory):
    return load_assignment(make_assignment(tmp_path_factory.mktemp("made"), SOURCE, "torchy"))


def solved(assignment, code=None):
    """Return the solution as a file, with other code for its first exercise."""
    notebook = copy.deepcopy(assignment.solution)
    for cell in notebook.cells:
        if code is not None and cell.metadata.get("labkit") == {"exercise": "soften"}:
            cell.source = code
    return notebook_bytes(notebook)


@pytest.fixture(scope="module")
def harvested(assignment, tmp_path_factory):
    """All variants through one process, as a worker of the grader would."""
    root = tmp_path_factory.mktemp("harvested")
    tasks = []
    for number, (name, (code, _)) in enumerate(VARIANTS.items()):
        (root / f"{number}.ipynb").write_bytes(solved(assignment, code))
        tasks.append(
            {
                "submission": str(root / f"{number}.ipynb"),
                "name": name,
                "assignment_dir": str(assignment.folder),
                "out": str(root / name),
            }
        )
    done = subprocess.run(
        COMMAND,
        input="".join(json.dumps(task) + "\n" for task in tasks),
        capture_output=True,
        text=True,
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["out"] for reply in replies] == [task["out"] for task in tasks], done.stderr
    return root


@pytest.mark.parametrize("name", VARIANTS)
def test_graded_as_a_person_would(assignment, harvested, name):
    result = score(harvested / name, assignment)
    values, gradients = VARIANTS[name][1]
    assert [probe.points for probe in result.probes] == [values, gradients, 3], result


def test_the_harvest_of_a_solution(assignment, harvested):
    folder = harvested / "solution"
    found = json.loads((folder / "harvest.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["executed.ipynb", "harvest.json"]
    assert found["state"] == "ok"
    assert found["submission"] == "solution"
    assert found["assignment_hash"] == assignment.hash
    assert found["isolation"] in STRONG
    assert found["questions"] == {"why": "So."}
    assert [cell["exercise"] for cell in found["cells"]] == ["", "soften", "model"]
    assert found["seconds"]["total"] >= found["seconds"]["cells"] + found["seconds"]["probes"]
    assert found["environment"]["torch"]
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    assert len(executed.cells) == 3
    assert "probe" not in (folder / "executed.ipynb").read_text()


def test_forbidden_names_are_reported(harvested):
    found = json.loads((harvested / "forbidden" / "harvest.json").read_text())
    assert found["forbidden"] == ["torch.nn.functional.softmax"]
    assert found["probes"]["values"]["status"] == "raised"
    assert found["probes"]["values"]["ename"] == "ForbiddenFunction"


def test_a_folder_labkit_where_it_runs_is_not_imported(assignment, tmp_path, monkeypatch):
    """As in another checkout, which the kernel's sandbox does not hold."""
    (tmp_path / "labkit").mkdir()
    (tmp_path / "labkit" / "__init__.py").write_text("raise RuntimeError('not the installed one')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ada.ipynb").write_bytes(solved(assignment))
    task = {
        "submission": str(tmp_path / "ada.ipynb"),
        "assignment_dir": str(assignment.folder),
        "out": str(tmp_path / "out"),
    }
    server = ExecutionServer()
    try:
        assert server.execute(task, 120)["state"] == "ok"
    finally:
        server.close()


def test_an_exercise_that_ends_the_kernel_takes_no_other_with_it(assignment, tmp_path):
    content = solved(assignment, "import os\ndef soften(x):\n    os._exit(1)")
    (tmp_path / "n {x} ü.ipynb").write_bytes(content)
    reply = execute(tmp_path / "n {x} ü.ipynb", assignment.folder, tmp_path / "out")
    assert reply["state"] == "dead-kernel"
    found = json.loads((tmp_path / "out" / "harvest.json").read_text())
    statuses = [found["probes"][name]["status"] for name in ("values", "gradients", "model")]
    assert statuses == ["not-run", "not-run", "answered"]
    assert score(tmp_path / "out", assignment).points == 3


def test_kernels_find_bytecode(harvested):
    for name in KERNEL_PACKAGES:
        modules = Path(find_spec(name).origin).parent.glob("*.py")
        assert [path for path in modules if not Path(cache_from_source(path)).is_file()] == []


def test_bytecode_is_written_once_and_where_it_cannot_be_nothing_is_said(
    tmp_path, monkeypatch, capfd
):
    (tmp_path / "first" / "inner").mkdir(parents=True)
    for path in ("first/__init__.py", "first/inner/a.py"):
        (tmp_path / path).write_text("A = 1")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "__init__.py").write_text("A = 1")
    (tmp_path / "second" / "wrong.py").write_text("not Python")
    (tmp_path / "second" / "__pycache__").write_text("in the way")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    _write_bytecode(("first", "second", "nobody_has_this"))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pyc")}
    assert {path.name.split(".")[0] for path in written} == {"__init__", "a"}
    _write_bytecode(("first", "second"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pyc")} == written
    assert capfd.readouterr() == ("", "")


def test_mistakes_in_the_task_are_said(assignment, tmp_path):
    reply = execute(tmp_path / "gone.ipynb", assignment.folder, tmp_path / "out")
    assert "gone.ipynb: cannot be read: No such file" in reply["error"]
    (tmp_path / "a.ipynb").write_text("{}")
    reply = execute(tmp_path / "a.ipynb", tmp_path, tmp_path / "out")
    assert "no source.py" in reply["error"]
    assert not (tmp_path / "out").exists()


def execute(submission, assignment_dir, out):
    """The reply to one submission from the process of this thread."""
    task = {"submission": submission, "assignment_dir": assignment_dir, "out": out}
    return execute_locally({key: str(path) for key, path in task.items()}, 120)


def test_a_kernel_that_does_not_start_is_no_fault_of_the_student(assignment, tmp_path):
    (tmp_path / "a.ipynb").write_bytes(notebook_bytes(assignment.notebook))
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bwrap", "setpriv", "unshare"):
        (folder / tool).write_text("#!/bin/sh\necho the wall is down >&2\nexit 1\n")
        (folder / tool).chmod(0o755)
    program = (
        "import sys, labkit.grading.sandbox.provisioner as s\n"
        f"s.OUTER_ENVIRONMENT = {{'PATH': {str(folder)!r} + ':/usr/bin:/bin'}}\n"
        "from labkit.grading.execution.run_submission import run_submission\n"
        f"r = run_submission({{'submission': {str(tmp_path / 'a.ipynb')!r},\n"
        "  'isolation': 'namespaces',\n"
        f"  'assignment_dir': {str(assignment.folder)!r}, 'out': {str(tmp_path / 'out')!r}}})\n"
        "print(r.state, r.message, sep=': ')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    expected = "infrastructure-error: the sandboxed kernel did not start: the wall is down\n"
    assert done.stdout == expected


def test_killed_in_the_middle_nothing_is_left(assignment, tmp_path):
    content = solved(assignment, "import time\ntime.sleep(500)")
    (tmp_path / "a.ipynb").write_bytes(content)
    task = {
        "submission": str(tmp_path / "a.ipynb"),
        "assignment_dir": str(assignment.folder),
        "out": str(tmp_path / "out"),
    }
    server = psutil.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    server.stdin.write(json.dumps(task) + "\n")
    server.stdin.flush()
    deadline = time.monotonic() + 120
    while not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in family(server)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    members = family(server)
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdin.close()
    _, alive = psutil.wait_procs(members, timeout=30)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert not (tmp_path / "out").exists()


def family(process):
    found = []
    for member in process.children(recursive=True):
        try:
            member.cmdline()
            found.append(member)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", r"not UTF-8 text \(byte 0\)"),
        (b"{", "not JSON: Expecting property name"),
        (b"[" * 10**6, "not JSON: maximum recursion depth"),
        (b"[1]", "it has no cells"),
        (b'{"cells": {}}', "it has no cells"),
        (b'{"worksheets": [{"cells": [1]}, 2]}', "it has no cells"),
    ],
)
def test_files_that_are_no_notebooks(content, message):
    with pytest.raises(BadNotebook, match=message):
        parse(content)


def test_notebooks_that_are_too_large():
    limits = Limits(cells=3, notebook_mb=0.0001)
    with pytest.raises(BadNotebook, match="4 cells; at most 3 are graded"):
        cells_of({"cells": [{}] * 4}, limits)
    text = {"cell_type": "markdown", "source": "x" * 101}
    with pytest.raises(BadNotebook, match=r"have 0\.0 MB without outputs; at most 0\.0001"):
        cells_of({"cells": [text]}, limits)
    # What is not graded does not count: outputs, pasted pictures, widgets.
    shown = {"outputs": [{"text": "x" * 10**6}], "attachments": {"a.png": {"image/png": "A" * 999}}}
    assert cells_of(
        {"cells": [{**text, **shown, "source": "x"}], "metadata": {"widgets": "x" * 999}}, limits
    )
    code = {"cell_type": "code", "source": "x" * 200_000}
    with pytest.raises(BadNotebook, match=r"0\.6 MB of code; at most 0\.5"):
        cells_of({"cells": [code] * 3}, Limits())


def test_cells_of_every_version():
    new = {"cell_type": "code", "source": ["a\n", "b"], "metadata": {"labkit": {"exercise": "e"}}}
    odd = {
        "cell_type": "code",
        "source": "a\0",
        "metadata": {"labkit": {"exercise": 3, "role": []}},
    }
    old = {"cell_type": "code", "input": "c", "outputs": []}
    cells = cells_of({"cells": [new, odd]}, Limits())
    cells += cells_of({"worksheets": [{"cells": [old]}, {"cells": []}]}, Limits())
    assert [(cell.source, cell.exercise, cell.role) for cell in cells] == [
        ("a\nb", "e", ""),
        ("a", "", ""),
        ("c", "", ""),
    ]
    for wrong in (None, {"cell_type": "code", "source": 3}, {"source": "x"}):
        with pytest.raises(BadNotebook, match="cell 1 is malformed"):
            cells_of({"cells": [wrong]}, Limits())
