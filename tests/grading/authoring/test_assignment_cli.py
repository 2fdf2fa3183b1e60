import json

import pytest
from helpers.command import labkit
from helpers.made_assignments import SOURCE, make_assignment
from typer.testing import CliRunner

from labkit.cli.assignment import app
from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.authoring.validate import check_inputs, check_mistakes, check_no_leaks
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, LabkitError):
            raise result.exception
        return result

    return invoke


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]


def test_the_example_is_a_working_assignment(call, tmp_path):
    assert "wrote assignments/mine/source.py" in call("new", "mine").output
    loaded = load_assignment(tmp_path / "assignments" / "mine")
    assert loaded.assignment.points == 8
    assert check_no_leaks(loaded).passed
    assert check_inputs(loaded).passed
    assert check_mistakes(loaded).text.startswith("1 mistake ")
    assert check_mistakes(loaded).passed


@pytest.mark.parametrize("name", ["1st", "a b", "{x}", "ü"])
def test_an_unfit_name_is_refused(call, tmp_path, name):
    with pytest.raises(LabkitError, match="is not a valid name of an assignment"):
        call("new", name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_by_new(call, tmp_path):
    call("new", "mine", "--in", "course")
    source = tmp_path / "course" / "mine" / "source.py"
    source.write_text("mine")
    with pytest.raises(LabkitError, match="already exists"):
        call("new", "mine", "--in", "course")
    assert source.read_text() == "mine"


def test_release_writes_beside_the_source_and_the_solution_elsewhere(call, tmp_path):
    folder = make_assignment(tmp_path / "assignments")
    call("release", "tiny")
    call("release", "tiny", "--solution")
    assert sorted(path.name for path in folder.iterdir()) == ["source.py", "tiny.ipynb"]
    assert not any("twice_the_secret" in cell for cell in sources(folder / "tiny.ipynb"))
    assert any("twice_the_secret" in cell for cell in sources(tmp_path / "tiny-solution.ipynb"))


def test_release_goes_where_it_is_told(call, tmp_path):
    make_assignment(tmp_path / "assignments")
    call("release", "tiny", "--out", "a b/ü.ipynb")
    call("release", "assignments/tiny", "--out", "folder")
    assert sources(tmp_path / "a b" / "ü.ipynb") == sources(tmp_path / "folder" / "tiny.ipynb")


def test_release_spares_what_somebody_worked_in(call, tmp_path):
    folder = make_assignment(tmp_path / "assignments")
    call("release", "tiny")
    call("release", "tiny")
    path = folder / "tiny.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    path.write_text(json.dumps(notebook))
    with pytest.raises(LabkitError, match="has outputs"):
        call("release", "tiny")
    path.write_text("not a notebook")
    with pytest.raises(LabkitError, match="is not a Jupyter notebook"):
        call("release", "tiny")
    other = make_assignment(tmp_path / "assignments", name="other")
    call("release", "other")
    with pytest.raises(LabkitError, match="is not this notebook"):
        call("release", "tiny", "--out", str(other / "other.ipynb"))


def test_an_error_is_one_message(tmp_path):
    make_assignment(tmp_path, SOURCE.replace('tags=["setup"]', 'tags=["setpu"]'))
    done = labkit("assignment", "release", tmp_path / "tiny")
    assert done.returncode == 1
    assert "cell 2 (line 5): unknown tag 'setpu'; the tags are: setup, check" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_proves_an_assignment(call, tmp_path):
    if probe().works[0] not in STRONG:
        pytest.skip("no sandbox: apt-get install bubblewrap")
    make_assignment(tmp_path / "assignments")
    call("release", "tiny")
    result = call("check", "tiny")
    # What is right is random here: `classify` answers 0, the truth is drawn.
    assert "✓ the students' notebook contains no line of a solution or a probe" in result.output
    assert "✓ tiny.ipynb is up to date with the source" in result.output
    assert "✓ the unchanged notebook earns 0 of 9 points" in result.output
    assert "✗ the solution earns" in result.output
    assert "truth: " in result.output
    assert "values: " not in result.output
    assert result.exit_code == 1
