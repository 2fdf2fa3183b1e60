"""Real submissions in the sandbox: no right answer is lost, and every lost point has its reason."""

from __future__ import annotations

import copy
import json
import re
import subprocess

import nbformat
import pytest
from helpers.made_assignments import make_assignment

from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.authoring.release import notebook_bytes
from labkit.grading.execution.submission_process import COMMAND
from labkit.grading.intake.student import Student
from labkit.grading.reports.feedback import feedback_page
from labkit.grading.reports.gradebook import Entry
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.scoring.score import score

pytestmark = pytest.mark.skipif(
    probe().works[0] not in STRONG, reason="no sandbox; enable with: apt-get install bubblewrap"
)
SOURCE = """
# %% exercise="double"
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% exercise="quadruple"
def quadruple(x):
    # BEGIN SOLUTION
    return double(double(x))
    # END SOLUTION

# %% tags=["probes"]
def numbers(rng):
    return [{"x": int(rng.integers(1, 99))} for _ in range(4)]

ASSIGNMENT = Assignment(
    title="Numbers", minutes=5,
    probes=[
        Probe("two", "double", "double", 4, numbers, reference=lambda x: 2 * x, hint="Add x to x."),
        Probe("four", "quadruple", "quadruple", 4, numbers, reference=lambda x: 4 * x,
              given=("double",)),
    ],
    limits=Limits(cell_seconds=20, total_seconds=200, memory_mb=1000, output_mb=1, notebook_mb=1),
)
"""
RIGHT = "def double(x):\n    return x + x\n"
COLAB = "from google.colab import drive\ndrive.mount('/content/drive')\n!pip install nothing\n"
OWN_COPY = "def helper(x):\n    return x\n\ndef double(x):\n    return helper(x) * 3\n"
# What stands in the cell of `double`; the points; what the student reads; what is flagged.
ANSWERS = {
    "lines of another place": (
        f"{COLAB}{RIGHT}import seaborn\nseaborn.set()\n",
        (4, 4),
        "line 1, `from google.colab import drive`, raised ModuleNotFoundError",
        "line 1, `from google.colab import drive`, raised ModuleNotFoundError; the other lines ran",
    ),
    "a mistake beside it": (
        f"{RIGHT}print 'done'\n",
        (4, 4),
        "line 3, `print 'done'`, is not Python",
        "exercise double: line 3, `print 'done'`, is not Python",
    ),
    "a mistake in it": (
        "def double(x):\n    return 2 x\n",
        (0, 4),
        "not defined: line 2, `return 2 x`, is not Python",
        "exercise double: line 2, `return 2 x`, is not Python",
    ),
    "another name": (
        RIGHT.replace("double", "twice"),
        (0, 4),
        "your cell defines `twice` instead of `double`",
        "exercise double: the cell defines `twice` instead of `double`",
    ),
    "another argument": (
        "def double(y):\n    return y + y\n",
        (0, 4),
        "the call is `double(x)`, your function is `double(y)`",
        "exercise double: the names of the arguments matter",
    ),
    "wrong": (OWN_COPY, (0, 4), "Hint: Add x to x.", ""),
    "from future": (
        "from __future__ import annotations\n"
        "def double(x: Later) -> Later:\n    return x + x\nclass Later:\n    pass\n",
        (4, 4),
        "",
        "",
    ),
    "untouched": (None, (0, 4), "raised NotImplementedError", ""),
}


@pytest.fixture(scope="module")
def assignment(tmp_path_factory):
    return load_assignment(make_assignment(tmp_path_factory.mktemp("made"), SOURCE, "numbers"))


@pytest.fixture(scope="module")
def harvests(assignment, tmp_path_factory):
    root = tmp_path_factory.mktemp("harvests")
    tasks = []
    for number, (name, (answer, *_)) in enumerate(ANSWERS.items()):
        notebook = copy.deepcopy(assignment.solution)
        for cell in notebook.cells:
            if cell.metadata.get("labkit") == {"exercise": "double"}:
                cell.source = assignment.exercises["double"].stub if answer is None else answer
                # Twice what the whole file may have, but only of output.
                cell.outputs = [nbformat.v4.new_output("stream", text="x" * 2_000_000)]
        (root / f"{number}.ipynb").write_bytes(notebook_bytes(notebook))
        task = {"submission": str(root / f"{number}.ipynb"), "out": str(root / name)}
        tasks.append({**task, "assignment_dir": str(assignment.folder)})
    subprocess.run(
        COMMAND,
        input="".join(json.dumps(task) + "\n" for task in tasks),
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return root


def words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page)).split())


@pytest.mark.parametrize("name", ANSWERS)
def test_graded_as_a_person_would(assignment, harvests, name):
    _, points, told, flagged = ANSWERS[name]
    result = score(harvests / name, assignment)
    assert tuple(probe.points for probe in result.probes) == points, result
    page = words(feedback_page(Entry(Student("ada"), result, file="a.ipynb"), assignment))
    page = page.replace("&#39;", "'")
    # What stands between backticks is shown as code.
    assert told.replace("`", "") in re.sub(r" ([,;:)])", r"\1", page)
    assert bool(result.flags) == bool(flagged)
    assert any(flagged in flag for flag in result.flags) or not flagged
    # A mistake in the first exercise does not cost the second one; other names of arguments are
    # none to the student's own calls.
    given = () if points[0] or name == "another argument" else ("double",)
    assert result.probes[1].given == given
    assert ("Run with the solution of double" in page) == bool(given)


def test_the_solution_enters_no_run_that_leaves_a_notebook(assignment, harvests):
    for name in ANSWERS:
        executed = (harvests / name / "executed.ipynb").read_text()
        assert "2 * x" not in executed


def test_a_file_that_is_no_notebook_is_told_why(assignment, tmp_path):
    submission = {"submission": str(tmp_path / "a.ipynb"), "out": str(tmp_path / "out")}
    (tmp_path / "a.ipynb").write_text("<!DOCTYPE html>")
    subprocess.run(
        COMMAND,
        input=json.dumps({**submission, "assignment_dir": str(assignment.folder)}) + "\n",
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    result = score(tmp_path / "out", assignment)
    assert result.state == "bad-notebook"
    page = words(feedback_page(Entry(Student("ada"), result, file="a.ipynb"), assignment))
    assert "The reason: the file is not JSON: Expecting value" in page
