"""A course of twenty, from the command to the gradebook; what is resumed, retried, survived."""

import csv
import json
import shutil
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.make_submissions import EXPECTED, POLICY, make_assignment, make_submissions
from rich.console import Console

from labkit.bench.grading import SyntheticCourse, survive_killed_dask_worker, survive_killed_grader
from labkit.errors import LabkitError
from labkit.grading.execution.batch import GradingRequest, execute_all, grade, regrade
from labkit.grading.execution.executors import ExecutionServer, execute_locally, local_workers
from labkit.grading.execution.progress import GradingProgress
from labkit.grading.intake.submissions import Submission
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.sandbox.scratch import scratch_folder


def need_sandbox():
    if probe().works[0] not in STRONG:
        reason = next(iter(probe().reasons.values()), "")
        pytest.skip(f"no sandbox here: {reason}; enable with: apt-get install bubblewrap")


def labkit(*arguments):
    command = [sys.executable, "-m", "labkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def rows(out):
    with (out / "gradebook.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The folder of a course, graded by the command; and what the command said."""
    need_sandbox()
    root = tmp_path_factory.mktemp("course")
    loaded = make_assignment(root / "assignments")
    make_submissions(root / "submissions", loaded)
    (root / "late.toml").write_text(POLICY, encoding="utf-8")
    return root, labkit("grade", *arguments(root))


def arguments(root):
    where = ["--assignment", root / "assignments" / "iou", "--out", root / "out"]
    return [root / "submissions", *where, "--late-policy", root / "late.toml", "--workers", "2"]


def request(root):
    return GradingRequest(
        submissions=root / "submissions",
        assignment=str(root / "assignments" / "iou"),
        out=root / "out",
        late_policy=root / "late.toml",
        workers=1,
    )


def test_everybody_gets_what_is_right(graded):
    root, done = graded
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(root / "out")
    assert list(found) == list(EXPECTED)
    for student, expected in EXPECTED.items():
        row = found[student]
        if expected.points is None:
            assert row["state"] == "not graded: no notebook submitted (only report.pdf)"
            assert row["points"] == ""
            continue
        # A flood may reach the limit of memory before that of output.
        allowed = ("flood", "over-limit") if expected.state == "flood" else (expected.state,)
        assert row["state"] in allowed, student
        kept = 0.8 if student == "heidi" else 1.0
        assert float(row["points"]) == pytest.approx(kept * expected.points), student
    assert found["heidi"]["late"] == "36 hours late: 20 % of the points are deducted"
    assert found["leo"]["late"] == ""
    assert "leo/second try.ipynb" in found["leo"]["look_at"]
    assert found["ivan"]["look_at"] == "the same file as ada"
    assert "another" in found["peter"]["look_at"]
    assert "olga" in (root / "out" / "report.html").read_text(encoding="utf-8")
    assert len(list((root / "out" / "feedback").iterdir())) == 20
    assert "18/18" in done.stdout


def test_one_harvest_a_file_and_none_again(graded):
    root, _ = graded
    harvests = {path: path.stat() for path in (root / "out").glob("harvest/*/harvest.json")}
    assert len(harvests) == 18  # ivan's is ada's, leo's first does not count, olga has none
    before = rows(root / "out")
    conclusion = grade(request(root), Console(quiet=True))
    assert not conclusion.failed
    assert rows(root / "out") == before
    assert {path: path.stat() for path in harvests} == harvests


def test_regrade_takes_marks_and_the_policy_as_they_are_now(graded, tmp_path):
    out = shutil.copytree(graded[0] / "out", tmp_path / "out")
    marks = (out / "questions.csv").read_text(encoding="utf-8-sig")
    assert "ada,scale,,2" in marks
    filled = marks.replace("ada,scale,,2", "ada,scale,1.5,2")
    (out / "questions.csv").write_text(filled, encoding="utf-8-sig")
    policy = tmp_path / "new.toml"
    policy.write_text('deadline = 2026-05-10\ncounts = "first"\n[extensions]\nzoe = 2026-05-11\n')
    conclusion = regrade(out, late_policy=policy)
    found = rows(out)
    assert found["ada"]["points"] == "7.5"
    assert found["heidi"]["points"] == "6"
    # Only the submission that counted was run; now the other one counts.
    assert [entry.student.key for entry in conclusion.failed] == ["leo"]
    assert "run labkit grade again" in found["leo"]["state"]
    assert "'zoe'" in conclusion.problems[0]


def test_points_given_are_never_lost(graded, tmp_path):
    out = shutil.copytree(graded[0] / "out", tmp_path / "out")
    marks = (out / "questions.csv").read_text(encoding="utf-8-sig")
    (out / "questions.csv").write_text(marks.replace("ada,scale,,2", "ada,scale,1.5,2"))
    shutil.rmtree(out / "harvest" / rows(out)["ada"]["content_hash"])
    conclusion = regrade(out)
    (kept,) = out.glob("questions-until-*.csv")
    assert "ada,scale,1.5,2" in kept.read_text(encoding="utf-8")
    assert kept.name in conclusion.problems[0]


def test_a_folder_that_cannot_be_written_harms_nobody_else(graded):
    root, _ = graded
    before = rows(root / "out")
    folder = root / "out" / "harvest" / before["bob"]["content_hash"]
    kept = folder.rename(root / "kept")
    folder.write_text("in the way")
    conclusion = grade(request(root), Console(quiet=True))
    folder.unlink()
    kept.rename(folder)
    (failed,) = conclusion.failed
    assert failed.student.key == "bob"
    assert "cannot be written" in failed.problem
    after = rows(root / "out")
    assert after.pop("bob")["points"] == ""
    before.pop("bob")
    assert after == before


def test_failures_of_the_machinery_are_tried_three_times(graded, tmp_path):
    from labkit.grading.authoring.assignment import load_assignment

    loaded = load_assignment(graded[0] / "assignments" / "iou")
    asked = []
    replies = {
        "good": [{"state": "ok"}],
        "second": [{"error": "died"}, {"state": "cell-error"}],
        "never": [{"error": "died"}, {"state": "infrastructure-error"}, RuntimeError("gone")],
        "sandbox": [{"state": "infrastructure-error"}] * 3,
    }

    def submit(task):
        name = Path(task["out"]).name
        asked.append(name)
        reply, future = replies[name].pop(0), Future()
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)
        return future

    submissions = [Submission(name, tmp_path / name, name) for name in replies]
    progress = GradingProgress(Console(quiet=True), len(submissions))
    errors = execute_all(submissions, tmp_path, loaded, submit, progress)
    assert {name: asked.count(name) for name in asked} == {
        "good": 1,
        "second": 2,
        "never": 3,
        "sandbox": 3,
    }
    assert errors == {"never": "the worker failed: RuntimeError: gone"}
    assert progress.states == {"ok": 1, "cell-error": 1, "infrastructure-error": 2}
    assert not any(replies.values())


def test_a_harvest_that_dies_costs_one_reply_and_no_process_is_left(tmp_path):
    with local_workers(1) as executor:
        nothing = {"submission": "/nowhere", "assignment_dir": "/nowhere", "out": str(tmp_path)}
        reply = executor.submit(execute_locally, nothing, 60.0).result()
        assert reply["error"] == "/nowhere: cannot be read: No such file or directory"
        reply = executor.submit(execute_locally, {"not": "a task"}, 60.0).result()
        assert "the executing process died" in reply["error"]
        assert "KeyError" in reply["error"]
        reply = executor.submit(execute_locally, nothing, 60.0).result()
        assert "No such file" in reply["error"]
    server = ExecutionServer()
    server.close()
    assert not server.alive


def test_what_a_killed_grader_left_goes_away_with_the_next(tmp_path):
    with scratch_folder(tmp_path) as left:
        assert left.is_dir()
    assert not left.exists()
    left.mkdir()
    (left / "labkit-x").mkdir()
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert not left.exists()
    (tmp_path / ".scratch").write_text(str(tmp_path))  # nobody's but its own folders
    with scratch_folder(tmp_path):
        assert tmp_path.is_dir()


def test_wrong_out(graded, tmp_path):
    root, _ = graded
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(LabkitError, match="contains other files"):
        grade(replace(request(root), out=tmp_path), Console(quiet=True))
    with pytest.raises(LabkitError, match=r"no grading\.json"):
        regrade(tmp_path)
    out = shutil.copytree(root / "out", tmp_path / "out")
    content = json.loads((out / "grading.json").read_text(encoding="utf-8"))
    (out / "grading.json").write_text(json.dumps({**content, "assignment": "pq"}))
    with pytest.raises(LabkitError, match="contains the grading of pq; choose another --out"):
        grade(replace(request(root), out=out), Console(quiet=True))
    (out / "grading.json").write_text('{"assignment": "iou"}')
    with pytest.raises(LabkitError, match="damaged"):
        regrade(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assignment": "nothing"}, "there is no assignment 'nothing'"),
        ({"late_policy": Path("/nowhere.toml")}, "late policy /nowhere.toml: cannot be read"),
        ({"submissions": Path("/nowhere")}, "/nowhere: no such folder"),
        ({"isolation": "prayer"}, "there is no isolation 'prayer'"),
    ],
)
def test_bad_request(graded, tmp_path, change, message):
    wrong = replace(request(graded[0]), out=tmp_path / "out", **change)
    with pytest.raises(LabkitError, match=message):
        grade(wrong, Console(quiet=True))
    assert not (tmp_path / "out" / "grading.json").exists()


def test_killed_grader(tmp_path):
    """SIGKILL of the command in the middle, then the command again."""
    need_sandbox()
    survival = survive_killed_grader(SyntheticCourse(tmp_path, 6))
    assert survival.unharmed, survival


def test_killed_dask_worker(tmp_path):
    need_sandbox()
    pytest.importorskip("distributed", reason="no Dask; enable with: uv sync --extra cluster")
    survival = survive_killed_dask_worker(SyntheticCourse(tmp_path, 6))
    assert survival.unharmed, survival
