import json

import nbformat
import pytest
from helpers.made_assignments import SOURCE, load_tiny, make_assignment

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import find_assignment, load_assignment
from labkit.grading.authoring.release import assignment_of, notebook_bytes, write_notebook
from labkit.grading.authoring.validate import check_inputs, check_no_leaks, check_release


def cells(notebook):
    return [(cell.cell_type, dict(cell.metadata.get("labkit", {}))) for cell in notebook.cells]


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def test_the_students_notebook(tmp_path):
    notebook = load_tiny(tmp_path).notebook
    nbformat.validate(notebook)
    assert cells(notebook) == [
        ("markdown", {}),
        ("code", {"role": "setup"}),
        ("code", {"exercise": "double"}),
        ("code", {"role": "check"}),
        ("code", {"exercise": "classify"}),
        ("markdown", {"question": "why"}),
    ]
    assert assignment_of(notebook) == "tiny"
    assert [c.id for c in notebook.cells if "exercise" in c.id] == [
        "exercise-double",
        "exercise-classify",
    ]
    for secret in ("twice_the_secret", "positive difference", "only in the solution", "RUBRIC"):
        assert secret not in notebook_bytes(notebook).decode()


def test_the_solution_notebook(tmp_path):
    loaded = load_tiny(tmp_path)
    solution = text(loaded.solution)
    for content in ("twice_the_secret = x + x", "positive difference", "only in the solution"):
        assert content in solution
    for secret in ("RUBRIC", "def numbers", "BEGIN SOLUTION", "your code here"):
        assert secret not in notebook_bytes(loaded.solution).decode()


def test_the_clean_notebook_has_setup_and_empty_slots(tmp_path):
    clean = load_tiny(tmp_path).clean
    assert [(dict(cell.metadata.labkit), cell.source) for cell in clean.cells] == [
        ({"role": "setup"}, "import numpy as np"),
        ({"exercise": "double"}, ""),
        ({"exercise": "classify"}, ""),
    ]


def test_an_exercise_names_its_answers(tmp_path):
    exercises = load_tiny(tmp_path).exercises
    assert exercises["double"].names == ("double",)
    assert exercises["classify"].names == ("classify", "SIDES")
    assert "your code here" in exercises["double"].stub


def test_notebooks_are_the_same_to_the_byte(tmp_path):
    one = load_tiny(tmp_path / "a")
    two = load_tiny(tmp_path / "b")
    assert notebook_bytes(one.notebook) == notebook_bytes(two.notebook)
    assert one.hash == two.hash


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# # Tiny", "# # Tiny, better explained", True),
        ("assert double(2) == 4", "assert double(3) == 6", True),
        ("x + x", "x * 2", True),
        ("import numpy as np\n\n# %% exercise", "import numpy\n\n# %% exercise", False),
        ("SIDES = 4", "SIDES = 5", False),
        ("range(4)", "range(5)", False),
        ('("numpy.multiply",)', "()", False),
    ],
)
def test_the_hash_is_of_what_grading_depends_on(tmp_path, old, new, same):
    assert SOURCE.count(old) == 1
    before = load_tiny(tmp_path / "a").hash
    after = load_tiny(tmp_path / "b", SOURCE.replace(old, new)).hash
    assert (before == after) is same


def test_the_hash_knows_files_beside_the_source(tmp_path):
    folder = make_assignment(tmp_path)
    before = load_assignment(folder).hash
    (folder / "tiny.ipynb").write_text("{}")
    (folder / ".hidden").write_text("x")
    assert load_assignment(folder).hash == before
    (folder / "truth.json").write_text("[1]")
    after = load_assignment(folder).hash
    assert after != before
    (folder / "truth.json").write_text("[2]")
    assert load_assignment(folder).hash not in {before, after}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ASSIGNMENT = Assignment(", "ASSIGNMENTS = Assignment(", "ASSIGNMENT is missing; end"),
        ("ASSIGNMENT = Assignment(", "ASSIGNMENT = dict(", "ASSIGNMENT is a dict"),
        ('tags=["probes"]', 'tags=["solution"]', 'no cell with # %% tags=["probes"]'),
        ("def numbers(rng):", "def numbers(rng:", "not Python: "),
        ("minutes=5", "minutes=-5", "minutes must be a positive number, not -5"),
        ("    forbidden=", "    forbiden=", "unexpected keyword argument 'forbiden'"),
        ('"values", "double"', '"values", "duoble"', "probe 'values' is about exercise 'duoble'"),
        (
            '"values", "double", "double"',
            '"values", "double", "dbl"',
            "calls 'dbl', which exercise",
        ),
        ('Question("why"', 'Question("how"', "question 'how' has no cell"),
        (
            'questions=[Question("why", 1, "RUBRIC-TEXT: mentions the difference")],',
            "",
            "question 'why' earns nothing; add Question('why'",
        ),
    ],
)
def test_what_is_wrong_in_the_probes_cell_is_said(tmp_path, old, new, message):
    assert old in SOURCE
    with pytest.raises(LabkitError) as caught:
        load_tiny(tmp_path, SOURCE.replace(old, new))
    assert "source.py" in str(caught.value)
    assert message in str(caught.value)


def test_an_error_in_the_probes_cell_has_the_files_line(tmp_path):
    source = SOURCE.replace("ASSIGNMENT = Ass", "boom = 1 / 0\nASSIGNMENT = Ass")
    line = source.splitlines().index("boom = 1 / 0") + 1
    with pytest.raises(LabkitError, match=rf"source\.py, line {line}: ZeroDivisionError"):
        load_tiny(tmp_path, source)


def test_assignments_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    folder = make_assignment(tmp_path / "course" / "assignments")
    inner = tmp_path / "course" / "deep"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for selector in ("tiny", "../assignments/tiny", str(folder), str(folder / "source.py")):
        assert find_assignment(selector) == folder
    with pytest.raises(LabkitError, match=r"'tinny': did you mean tiny\? name a folder"):
        find_assignment("tinny")


def test_a_folder_without_source_or_with_an_unfit_name(tmp_path):
    with pytest.raises(LabkitError, match=r"no source\.py"):
        load_assignment(tmp_path.parent / "nothing")
    with pytest.raises(LabkitError, match="must start with a letter"):
        load_assignment(make_assignment(tmp_path, name="1 {x}"))


def test_the_proof_finds_what_is_given_away(tmp_path):
    assert check_no_leaks(load_tiny(tmp_path / "a")).passed
    told = SOURCE.replace("# # Tiny", "# # Tiny\n# Because of the  positive difference.")
    finding = check_no_leaks(load_tiny(tmp_path / "b", told))
    assert not finding.passed
    assert finding.details == ("cell 6: Because of the positive difference.",)


def test_the_proof_compares_the_released_notebook(tmp_path):
    loaded = load_tiny(tmp_path)
    assert not check_release(loaded).passed
    path = loaded.folder / "tiny.ipynb"
    write_notebook(loaded.notebook, path)
    assert check_release(loaded).passed
    notebook = json.loads(path.read_text())
    notebook["cells"].pop()
    path.write_text(json.dumps(notebook))
    assert "is not up to date with the source" in check_release(loaded).text


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        ("np.random.default_rng().normal(size=2)", "different inputs for the same seed"),
        ("np.ones(2)", "the same inputs for every submission"),
    ],
)
def test_the_proof_finds_inputs_that_do_not_follow_from_the_seed(tmp_path, draw, message):
    assert check_inputs(load_tiny(tmp_path / "a")).passed
    source = SOURCE.replace("rng.normal(size=(3, 2))", draw)
    finding = check_inputs(load_tiny(tmp_path / "b", source))
    assert not finding.passed
    assert f"probe values: {message}" in finding.details[0]
