"""Answers found as a person would find them, whatever became of the cells."""

import pytest
from made_assignments import load_tiny

from labkit.grading.lift import lift
from labkit.grading.submission import StudentCell

SOURCE = """
# %% tags=["setup"]
import numpy as np
LIMIT = 3

# %% exercise="area"
def area(box):
    # BEGIN SOLUTION
    return box[2] * box[3]
    # END SOLUTION

# %% exercise="overlap"
def helper(a):
    # BEGIN SOLUTION
    return a
    # END SOLUTION

def overlap(a, b):
    # BEGIN SOLUTION
    return helper(a) + b
    # END SOLUTION

# %% [markdown] question="why"
# Why?
#
# <!-- BEGIN SOLUTION -->
# Because.
# <!-- END SOLUTION -->

# %% tags=["probes"]
def one(rng):
    return [{"box": [0, 0, int(rng.integers(9)), 2]}]
def two(rng):
    return [{"a": int(rng.integers(9)), "b": 1}]
ASSIGNMENT = Assignment(
    title="T", minutes=1,
    probes=[Probe("area", "area", "area", 1, one, reference=lambda box: box[2] * box[3]),
            Probe("overlap", "overlap", "overlap", 1, two, reference=lambda a, b: a + b)],
    questions=[Question("why", 1, "reason")],
    forbidden=("numpy.prod", "scipy.ndimage"),
)
"""
AREA = "def area(box):\n    return box[2] * box[3]"
OVERLAP = "def helper(a):\n    return a\n\ndef overlap(a, b):\n    return helper(a) + b"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("lift"), SOURCE)


def code(source, exercise="", role="", kind="code"):
    return StudentCell(kind, source, exercise=exercise, role=role)


def run(cells, loaded):
    """Execute what was lifted, cell by cell, going on after errors; return the names."""
    names = {}
    for cell in lift(cells, loaded).notebook.cells:
        try:
            exec(cell.source, names)
        except Exception:
            continue
    return names


def areas(cells, loaded):
    names = run(cells, loaded)
    try:
        return names["area"]([0, 0, 3, 4])
    except (KeyError, NotImplementedError):
        return None


def stub(loaded, name="area"):
    return loaded.exercises[name].stub


def test_the_usual_notebook(loaded):
    cells = [code("LIMIT = 9", role="setup"), code(AREA, "area"), code(OVERLAP, "overlap")]
    lifted = lift(cells, loaded)
    marks = [dict(cell.metadata.labkit) for cell in lifted.notebook.cells]
    assert marks == [{"role": "setup"}, {"exercise": "area"}, {"exercise": "overlap"}]
    names = run(cells, loaded)
    assert names["area"]([0, 0, 3, 4]) == 12
    assert names["overlap"](1, 2) == 3
    assert names["LIMIT"] == 3  # as the instructor wrote it


def test_copies(loaded):
    untouched = code(stub(loaded), "area")
    worked, wrong = code(AREA, "area"), code("def area(box):\n    return 0", "area")
    assert areas([untouched, worked], loaded) == 12
    assert areas([worked, untouched], loaded) == 12
    assert areas([worked, code(stub(loaded) + "\n# try later", "area")], loaded) == 12
    assert areas([wrong, worked], loaded) == 12
    assert areas([worked, wrong], loaded) == 0  # the last one stands
    assert areas([untouched], loaded) is None


def test_half_a_copy_does_not_undo_the_other(loaded):
    first = OVERLAP.replace("return helper(a) + b", 'raise NotImplementedError("your code here")')
    second = OVERLAP.replace("    return a\n", '    raise NotImplementedError("your code here")\n')
    names = run([code(first, "overlap"), code(second, "overlap")], loaded)
    assert names["overlap"](1, 2) == 3


def test_split_cells(loaded):
    between = [code("def helper(a):\n    return a", "overlap")]
    between += [code("def overlap(a, b):\n    return helper(a) + b", "overlap")]
    assert run(between, loaded)["overlap"](1, 2) == 3
    inside = [code("def area(box):\n    w = box[2]", "area"), code("    return w * box[3]", "area")]
    assert areas(inside, loaded) == 12


def test_reordered_and_deleted(loaded):
    assert areas([code(OVERLAP, "overlap"), code(AREA, "area")], loaded) == 12
    only = run([code(OVERLAP, "overlap")], loaded)
    assert "area" not in only
    assert only["overlap"](1, 2) == 3
    assert [c.source for c in lift([], loaded).notebook.cells] == ["import numpy as np\nLIMIT = 3"]


def test_answers_without_their_mark(loaded):
    assert areas([code("print(1)"), code(AREA), code("x = area([0, 0, 1, 1])")], loaded) == 12
    assert areas([code(stub(loaded), "area"), code(AREA)], loaded) == 12
    assert areas([code(AREA, "area", kind="markdown")], loaded) == 12
    assert areas([code("area = lambda box: box[2] * box[3]")], loaded) == 12
    assert areas([code("class area:\n    pass"), code(AREA)], loaded) == 12


def test_helpers_come_along(loaded):
    cells = [
        code("import math\nimport operator as op", role="setup"),
        code("SCALE = []\nSCALE.append(1)\nprint('a long training')\nunused = 1 / 0"),
        code("def times(a, b):\n    return op.mul(a, b) * SCALE[0]"),
        code("def area(box):\n    return math.floor(times(box[2], box[3]))", "area"),
    ]
    assert areas(cells, loaded) == 12
    assert areas([cells[3], *cells[:3]], loaded) == 12  # wherever they stand
    sources = [cell.source for cell in lift(cells, loaded).notebook.cells]
    assert not any("training" in source or "unused" in source for source in sources)


def test_the_helper_in_force_is_taken(loaded):
    cells = [
        code("k = 1"),
        code("def area(box):\n    return k * box[2] * box[3]", "area"),
        code("k = 5"),
    ]
    assert areas(cells, loaded) == 12


def test_helpers_from_stars_and_checks(loaded):
    cells = [
        code("from operator import *"),
        code("factor = 1", role="check"),
        code("def area(box):\n    return mul(box[2], box[3]) * factor", "area"),
    ]
    assert areas(cells, loaded) == 12


def test_local_names_bring_nothing_along(loaded):
    cells = [
        code("model = 1 / 0"),
        code("def area(box):\n    model = box[2]\n    return model * box[3]", "area"),
    ]
    assert [c.metadata.labkit for c in lift(cells, loaded).notebook.cells] == [
        {"role": "setup"},
        {"exercise": "area"},
    ]


def test_commands_of_ipython(loaded):
    cells = [
        code("%matplotlib inline\n!pip install x\nimport math\nhelp?"),
        code("%%time\nimport operator"),
        code("%%bash\nmath = 1"),
        code("def area(box):\n    return math.prod(box[2:]) * operator.truth(1)", "area"),
    ]
    assert areas(cells, loaded) == 12


def test_code_that_is_no_python(loaded):
    cells = [code("def area(box:\n    return", "area"), code(OVERLAP, "overlap")]
    lifted = lift(cells, loaded)
    assert [cell.source for cell in lifted.notebook.cells][1] == "def area(box:\n    return"
    assert run(cells, loaded)["overlap"](1, 2) == 3


@pytest.mark.parametrize(
    "bomb",
    [
        "(" * 5000,
        "-" * 150_000 + "1",
        "x" + ".x" * 90_000,
        "[" * 99 + "]" * 99,
        "x=1;" * 40_000,
        "%time x\n" * 20_000,
        "\n".join(f"x{n} = x{n + 1}" for n in range(9000)),
        "a" * 10**6,
    ],
    ids=range(8),
)
def test_bombs_of_syntax(loaded, bomb):
    assert areas([code(bomb), code(bomb, "overlap"), code(AREA, "area")], loaded) == 12


def test_free_text(loaded):
    def text(source):
        return StudentCell("markdown", source, question="why")

    untouched = next(c.stub for c in loaded.cells if c.role == "question")
    assert lift([], loaded).questions == {"why": ""}
    assert lift([text(untouched)], loaded).questions == {"why": ""}
    assert lift([text(untouched), text("One."), text("One."), text("Two.")], loaded).questions == {
        "why": "One.\n\nTwo."
    }


@pytest.mark.parametrize(
    ("use", "found"),
    [
        ("np.prod(box)", ("numpy.prod",)),
        ("product(box)", ("numpy.prod",)),
        ("ndi.zoom(box, 2)", ("scipy.ndimage",)),
        ("np.product(box)", ()),
        ("prod(box)", ()),
        ("'numpy.prod'", ()),
    ],
)
def test_forbidden_names_are_found(loaded, use, found):
    imports = "import math\n"  # numpy comes with the setup
    imports += "from numpy import prod as product\n" if "product(b" in use[:9] else ""
    imports += "from scipy import ndimage as ndi\n" if "ndi" in use else ""
    answer = code(f"{imports}def area(box):\n    return {use}", "area")
    assert lift([answer], loaded).forbidden == found
