"""Answers found as a person would find them, whatever became of the cells."""

import pytest
from helpers.made_assignments import load_tiny

from labkit.grading.execution.cell_analysis import split_steps, syntax_problem
from labkit.grading.execution.extract_answers import extract_answers, with_solutions
from labkit.grading.execution.remarks import Arguments
from labkit.grading.intake.notebook_reader import StudentCell

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
    return load_tiny(tmp_path_factory.mktemp("extract_answers"), SOURCE)


def code(source, exercise="", role="", kind="code"):
    return StudentCell(kind, source, exercise=exercise, role=role)


def run(cells, loaded):
    """Execute what was lifted, cell by cell, going on after errors; return the names."""
    names = {}
    for cell in extract_answers(cells, loaded).notebook.cells:
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
    lifted = extract_answers(cells, loaded)
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
    assert [c.source for c in extract_answers([], loaded).notebook.cells] == [
        "import numpy as np\nLIMIT = 3"
    ]


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
    sources = [cell.source for cell in extract_answers(cells, loaded).notebook.cells]
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
    assert [c.metadata.labkit for c in extract_answers(cells, loaded).notebook.cells] == [
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
    lifted = extract_answers(cells, loaded)
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
    assert extract_answers([], loaded).free_text.answers == {"why": ""}
    assert extract_answers([text(untouched)], loaded).free_text.answers == {"why": ""}
    assert extract_answers(
        [text(untouched), text("One."), text("One."), text("Two.")], loaded
    ).free_text.answers == {"why": "One.\n\nTwo."}


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
    assert extract_answers([answer], loaded).forbidden == found


WHY = """
# %% [markdown] question="how"
# How is it done, and what does it need?
#
# <!-- BEGIN SOLUTION -->
# So.
# <!-- END SOLUTION -->
"""
HOW = "How is it done, and what does it need?"
STUB = "*Your answer here.*"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    source = SOURCE.replace('\n# %% tags=["probes"]', WHY + '\n# %% tags=["probes"]')
    source = source.replace(', "reason")],', ', "reason"), Question("how", 1, "reason")],')
    return load_tiny(tmp_path_factory.mktemp("two"), source)


def text(source, question="", kind="markdown", **marks):
    return StudentCell(kind, source, question=question, **marks)


WHY_CELL = text(f"Why?\n\n{STUB}", "why")
HOW_CELL = text(f"{HOW}\n\n{STUB}", "how")


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        # The mark is gone: the question's own text tells which cell it was.
        ([text(f"Why?\n\n{STUB}\n\nOne."), text(f"{HOW}\n\nTwo.")], ("One.", "Two.")),
        ([text("Why?\nOne."), text(HOW.replace(" and", "\nand") + " Two.")], ("One.", "Two.")),
        # In a cell below, of whatever kind.
        ([WHY_CELL, text("One."), HOW_CELL, text("Two.", kind="raw")], ("One.", "Two.")),
        (
            [WHY_CELL, code("# One.\n#  So."), HOW_CELL, code("It is so.")],
            ("One.\nSo.", "It is so."),
        ),
        ([WHY_CELL, code("'One.'"), HOW_CELL, code("print('Two.')")], ("One.", "Two.")),
        ([WHY_CELL, text(""), text("One."), text("More."), HOW_CELL], ("One.\n\nMore.", "")),
        # In both.
        ([text("Why?\n\nOne.", "why"), text("More."), HOW_CELL], ("One.\n\nMore.", "")),
        # Above, or anywhere, when only one answer is missing.
        ([text("One."), WHY_CELL, text("Two.", "how")], ("One.", "Two.")),
        ([text("Lost."), code(AREA, "area"), WHY_CELL, text("Two.", "how")], ("Lost.", "Two.")),
        # In a cell with another mark.
        (
            [WHY_CELL, text("One.", role="check"), HOW_CELL, text("Two.", exercise="area")],
            ("One.", "Two."),
        ),
        # Nothing that is code.
        ([WHY_CELL, code("x = 1  # one"), HOW_CELL, code("# x = f(1)\n# g(x)")], ("", "")),
        ([WHY_CELL, code("%matplotlib inline"), HOW_CELL, code("!ls")], ("", "")),
    ],
)
def test_free_text_outside_its_cell(two, cells, answers):
    found = extract_answers(cells, two).free_text
    assert tuple(found.answers.values()) == answers
    assert found.doubts == {}


def test_free_text_that_may_be_lost_is_no_empty_answer(two):
    found = extract_answers([text("One."), code(AREA, "area"), WHY_CELL, HOW_CELL], two).free_text
    assert found.answers == {"why": "", "how": ""}
    assert found.doubts == dict.fromkeys(
        ("why", "how"), "there is text in cells that belong to no question"
    )
    assert extract_answers([WHY_CELL], two).free_text.doubts == {"how": "its cell is missing"}
    assert extract_answers([WHY_CELL, HOW_CELL], two).free_text.doubts == {}
    assert extract_answers([], two).free_text.doubts == {}


def test_parts_of_a_cell():
    cell = (
        "from google.colab import drive\n!pip install x\n@cached\ndef f():\n    return 1\nx=1;y=2"
    )
    assert split_steps(cell) == [
        (1, "from google.colab import drive"),
        (3, "@cached\ndef f():\n    return 1"),
        (6, "x=1;y=2"),
    ]
    assert split_steps("%time x = 1\n%pip install y\nx?\nz = 1") == [
        (1, "%time x = 1"),
        (4, "z = 1"),
    ]
    assert split_steps("%%time\nimport a\nx = 2") == [(2, "import a"), (3, "x = 2")]
    assert split_steps("a = 1\x0c\nb = '\u2028'\r\nc = 2") == [
        (1, "a = 1\x0c"),
        (2, "b = '\u2028'"),
        (3, "c = 2"),
    ]
    for whole in ("!ls", "%%bash\nls", "def f(:\n    pass", "x = 1\n" * 1000):
        assert split_steps(whole) == [(1, whole)]


def test_parts_of_a_cell_with_a_mistake():
    cell = (
        "def f():\n    return 1\nprint 'x'\ny = '''\nabc\n'''\nif y:\n    z = 1\nelse:\n    z = 2\n"
    )
    assert [line for line, _ in split_steps(cell)] == [1, 4, 7]
    assert split_steps(cell)[2][1].endswith("z = 2")
    found = syntax_problem(cell)
    assert (found.line, found.text) == (3, "print 'x'")
    assert syntax_problem("!ls\nx = 1") is None
    names = {}
    for _, part in split_steps(cell):
        exec(part, names)
    assert {"f", "y", "z"} <= set(names)


@pytest.mark.parametrize(
    ("answer", "defines", "takes"),
    [
        ("def myArea(b):\n    return 1", ["myArea"], None),
        ("class Area:\n    pass", ["Area"], None),
        ("area = lambda b: 1", [], (["b"], ["b"], False)),
        ("def area(b, *, c=1, d, **k):\n    return 1", [], (["b", "c", "d"], ["b", "d"], True)),
        ("def area(a, /, b=1):\n    return 1", [], (["b"], ["a"], False)),
    ],
)
def test_other_names_and_arguments_are_noted(loaded, answer, defines, takes):
    noted = extract_answers([code(answer, "area")], loaded).remarks["area"]
    assert noted.defines == defines
    assert noted.takes == ({} if takes is None else {"area": Arguments(*takes)})


def test_a_mistake_is_noted_with_its_line(loaded):
    noted = extract_answers([code("x = 1\ndef area(box):\n    print 'x'", "area")], loaded).remarks[
        "area"
    ]
    assert (noted.syntax.line, noted.syntax.text) == (3, "print 'x'")
    assert extract_answers([code(AREA, "area")], loaded).remarks["area"].syntax is None


def test_solutions_in_place_of_answers(loaded):
    wrong = "import math\nx = 1 / 0\ndef area(box):\n    return 0\ndef mine(a):\n    return a"
    right = "def overlap(a, b):\n    return mine(area([0, 0, a, b]))"
    lifted = extract_answers([code(wrong, "area"), code(right, "overlap")], loaded).notebook
    before = [cell.source for cell in lifted.cells]
    names = {}
    for cell in with_solutions(lifted, ["area"], loaded).cells:
        exec(cell.source, names)
    assert names["overlap"](3, 4) == 12
    assert [cell.source for cell in lifted.cells] == before
