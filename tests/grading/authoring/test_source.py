import pytest
from helpers.made_assignments import SOURCE

from labkit.errors import LabkitError
from labkit.grading.authoring.source import Role, defined_names, read_source, solution_lines


def read(tmp_path, text):
    path = tmp_path / "source.py"
    path.write_text(text, encoding="utf-8")
    return read_source(path)


def test_cells_have_roles_names_and_lines(tmp_path):
    cells = read(tmp_path, SOURCE)
    assert [(cell.role, cell.name) for cell in cells] == [
        (Role.TEXT, ""),
        (Role.SETUP, ""),
        (Role.EXERCISE, "double"),
        (Role.CHECK, ""),
        (Role.EXERCISE, "classify"),
        (Role.QUESTION, "why"),
        (Role.SOLUTION, ""),
        (Role.PROBES, ""),
    ]
    lines = SOURCE.splitlines()
    assert lines[cells[2].line - 1] == "def double(x):"
    assert lines[cells[5].line - 1] == "# Why is twice more than once?"
    assert lines[cells[7].line - 1] == "import numpy as np"
    assert cells[7].line > cells[1].line


def test_solutions_are_taken_out_at_their_indentation(tmp_path):
    cells = read(tmp_path, SOURCE)
    assert cells[2].stub == (
        'def double(x):\n    """Twice x."""\n    raise NotImplementedError("your code here")'
    )
    assert cells[2].solved == (
        'def double(x):\n    """Twice x."""\n    twice_the_secret = x + x\n'
        "    return twice_the_secret"
    )
    assert cells[5].stub == "Why is twice more than once?\n\n*Your answer here.*"
    assert cells[5].solved.endswith("\n\nBecause of the positive difference.")
    hidden = [line.strip() for _, line in solution_lines(cells)]
    assert "twice_the_secret = x + x" in hidden
    assert 'print("this is only in the solution")' in hidden
    assert "def numbers(rng):" in hidden
    assert "def double(x):" not in hidden


def test_several_regions_in_one_cell(tmp_path):
    (cell,) = read(
        tmp_path,
        '# %% exercise="e"\nclass A:\n    def f(self):\n        # BEGIN SOLUTION\n'
        "        return 1\n        # END SOLUTION\n\n    def g(self):\n        # BEGIN SOLUTION\n"
        "        return 2\n        # END SOLUTION\n\n    size = 3\n",
    )
    assert cell.stub.count('        raise NotImplementedError("your code here")') == 2
    assert cell.stub.endswith("    size = 3")
    assert cell.taken == ("        return 1", "        return 2")


def test_a_marker_inside_a_string_is_no_cell(tmp_path):
    cells = read(tmp_path, '# %% tags=["probes"]\nDRIVER = """\n# %% exercise="x"\n"""\n')
    assert len(cells) == 1


REGION = "    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION\n"


@pytest.mark.parametrize(
    ("text", "cell", "message"),
    [
        ('# %% tags=["setpu"]\nx = 1\n', 1, "unknown tag 'setpu'; the tags are: setup, check"),
        (
            "# %% tags=setup\nx = 1\n",
            1,
            "'tags=setup' cannot be understood; write for example tags",
        ),
        ("# %% exercises\nx = 1\n", 1, "unknown metadata 'title'; a cell has tags"),
        (
            '# %% tags=["setup", "check"]\nx = 1\n',
            1,
            "setup, check in one cell; a cell has one role",
        ),
        (f'# %% exercise="e" tags=["setup"]\ndef f():\n{REGION}', 1, "one role: split it"),
        (f'# %% excercise="e"\ndef f():\n{REGION}', 1, "unknown metadata 'excercise'"),
        (f'# %% exercise="a b"\ndef f():\n{REGION}', 1, "the name 'a b' must start with a letter"),
        (f'# %% exercise=""\ndef f():\n{REGION}', 1, "the name '' must start with a letter"),
        (f'# %% question="q"\ndef f():\n{REGION}', 1, "a question in a code cell"),
        ('# %% [markdown] exercise="q"\n# text\n', 1, "an exercise in a markdown cell"),
        ('# %% [markdown] tags=["setup"]\n# text\n', 1, "'setup' in a markdown cell"),
        ('x = 1\n\n# %% exercise="e"\ndef f(): ...\n', 2, "exercise 'e' has no solution; write it"),
        ('# %% [markdown] question="q"\n# Why?\n', 1, "question 'q' has no solution"),
        (f"# %%\ndef f():\n{REGION}", 1, "a solution outside an answer cell"),
        (f'# %% tags=["check"]\ndef f():\n{REGION}', 1, "a solution outside an answer cell"),
        ('# %% exercise="e"\ndef f():\n    # BEGIN SOLUTION\n    return 1\n', 1, "without # END"),
        ('# %% exercise="e"\ndef f():\n    return 1\n    # END SOLUTION\n', 1, "without # BEGIN"),
        (
            '# %% exercise="e"\ndef f():\n    # BEGIN SOLUTION\n    # BEGIN SOLUTION\n',
            1,
            "inside a solution",
        ),
        (
            '# %% exercise="e"\ndef f():\n    # BEGIN SOLUTION\n\n    # END SOLUTION\n',
            1,
            "the solution is empty",
        ),
        (
            '# %% exercise="e"\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n',
            1,
            "'### BEGIN SOLUTION': the markers are # BEGIN SOLUTION and # END SOLUTION, alone",
        ),
        (
            '# %% exercise="e"\ndef f():\n    #begin_solution\n    return 1\n',
            1,
            "the markers are",
        ),
        (
            '# %% [markdown] question="q"\n# <!-- begin solution -->\n# x\n',
            1,
            "the markers are <!-- BEGIN SOLUTION --> and",
        ),
        (f'# %% exercise="e"\ndef f(:\n{REGION}', 1, "the cell is not Python"),
        (
            '# %% exercise="e"\ndef f():\n    x = (1 +\n    # BEGIN SOLUTION\n    2)\n'
            "    # END SOLUTION\n",
            1,
            "what students get of it is not Python",
        ),
        (f'# %% exercise="e"\n%timeit 1\ndef f():\n{REGION}', 1, "without % and ! commands"),
        (
            f'# %% exercise="e"\ndef f():\n{REGION}\n# %% exercise="e"\ndef g():\n{REGION}',
            2,
            "exercise 'e' is already in cell 1",
        ),
    ],
)
def test_a_malformed_cell_is_named_with_what_to_do(tmp_path, text, cell, message):
    with pytest.raises(LabkitError) as caught:
        read(tmp_path, text)
    assert f"source.py, cell {cell} (line " in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "source.py"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabkitError, match=r"source\.py: not a py:percent source"):
        read_source(path)
    with pytest.raises(LabkitError, match="cannot be read: No such file"):
        read_source(tmp_path / "none.py")


def test_defined_names():
    source = (
        "import os\nA = 1\nB, (C, *D) = 1, (2, 3)\nE: int = 4\nx.y = 5\nz[0] = 6\n"
        "def f():\n    inner = 1\nasync def g(): ...\nclass H: ...\nA = 2\n"
    )
    assert defined_names(source) == ["A", "B", "C", "D", "E", "f", "g", "H"]
