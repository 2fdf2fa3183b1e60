"""The checks of an assignment's notebook: what they say, and that nothing stops them."""

from __future__ import annotations

import html
import re
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
import torch

from labkit.checks import Checks, equal, has_shape


def told(got: Any, expected: Any, within: float = 0.0) -> str:
    """What `equal` says; nothing if all is well."""
    try:
        equal(got, expected, within)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("got", "expected", "within"),
    [
        (1, 1, 0),
        (1.0, 1, 0),
        (True, 1, 0),
        ("a", "a", 0),
        (None, None, 0),
        ((1, 2), [1, 2], 0),
        (torch.tensor([[1.0, 2]], requires_grad=True), [[1, 2]], 0),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5, 0),
        ([torch.tensor([1]), torch.tensor([2])], [[1], [2]], 0),
        (np.arange(3), torch.arange(3), 0),
        (torch.float32, torch.float32, 0),
        ({"a", "b"}, {"b", "a"}, 0),
        ({"a": np.ones(2), "b": [1]}, {"b": [1], "a": [1, 1]}, 0),
        ([{"id": 1}], [{"id": 1}], 0),
        ([], [], 0),
        ((np.arange(3), 2.5), [[0, 1, 2], 2.5], 0),
        ([("a", torch.ones(2))], [("a", [1, 1])], 0),
        (float("nan"), float("nan"), 0),
        (0.1 + 0.2, 0.3, 1e-9),
        (2**60 + 1, 2**60 + 1, 0),
    ],
)
def test_equal(got: Any, expected: Any, within: float) -> None:
    assert told(got, expected, within) == ""


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (7.5, 8, "got 7.5, expected 8"),
        (None, 8, "got None (is there a return?), expected 8"),
        (None, [1, 2], "got None (is there a return?), expected [1, 2]"),
        ("a", 1, "got 'a', expected 1"),
        (["a"], ["b"], "got ['a'], expected ['b']"),
        (torch.zeros(3, 2), torch.zeros(2, 3), "got the shape (3, 2), expected (2, 3)"),
        (torch.zeros(2), 0, "got [0, 0], expected 0"),
        ([[1, 2], [3]], [[1, 2], [3, 4]], "at [1]: got the shape (1,), expected (2,)"),
        ((np.arange(3), 2), (np.arange(3), 3), "at [1]: got 2, expected 3"),
        (
            (np.arange(2), 2, 3),
            (np.arange(2), 2),
            "got (array([0, 1]), 2, 3), expected (array([0, 1]), 2)",
        ),
        ([1, 2, 4], [1, 2, 3], "got [1, 2, 4], expected [1, 2, 3]; first at [2] got 4, expected 3"),
        (
            torch.arange(16).reshape(4, 4).float(),
            torch.zeros(4, 4),
            "15 of 16 values differ; first at [0, 1] got 1, expected 0",
        ),
        ({"a": 1}, {"b": 1}, "got the keys ['a'], expected ['b']"),
        ({"a": [1, 2]}, {"a": [1]}, "at 'a': got the shape (2,), expected (1,)"),
        ({1, 2}, {1}, "got {1, 2}, expected {1}"),
        (torch.int32, torch.int64, "got torch.int32, expected torch.int64"),
        (float("nan"), 1, "got nan, expected 1"),
        (2**60 + 1, 2**60, f"got {2**60 + 1}, expected {2**60}"),
        ([{"id": 1}], [{"id": 2}], "got [{'id': 1}], expected [{'id': 2}]"),
        ("x" * 500, "y", f"got '{'x' * 158}…, expected 'y'"),
    ],
)
def test_what_is_different(got: Any, expected: Any, message: str) -> None:
    assert told(got, expected) == message


def test_within() -> None:
    assert told([1.0, 2.1], [1.0, 2.0], 0.2) == ""
    assert "first at [1] got 2.1, expected 2" in told([1.0, 2.1], [1.0, 2.0], 0.05)


def test_shapes() -> None:
    has_shape(torch.zeros(0, 4), (0, 4))
    with pytest.raises(AssertionError, match=r"got the shape \(4,\), expected \(0, 4\)"):
        has_shape(np.zeros(4), (0, 4))
    with pytest.raises(AssertionError, match=r"got \[1\], expected a tensor of shape \(1,\)"):
        has_shape([1], (1,))


def test_nothing_stops_the_others_but_the_reader() -> None:
    check = Checks("Exercise 1")
    with check("one"):
        equal(1, 2)
    with check("two"):
        raise ValueError("wrong\nmore")
    with check("three"):
        equal(1, 1)
    with check("four"):
        undefined_name  # type: ignore[name-defined]  # noqa: B018, F821
    with check("five"):
        assert 1 == 2
    with pytest.raises(KeyboardInterrupt), check("six"):
        raise KeyboardInterrupt
    assert repr(check).splitlines() == [
        "Exercise 1: 1 of 5 checks pass",
        "✗ one",
        "    got 1, expected 2",
        "✗ two",
        "    ValueError: wrong",
        "✓ three",
        "✗ four",
        "    NameError: name 'undefined_name' is not defined; run the cells above first",
        "✗ five",
        "    assert 1 == 2",
    ]


def test_all_pass() -> None:
    check = Checks("Exercise 1")
    with check("one <b>"):
        pass
    assert repr(check) == "Exercise 1: 1 of 1 checks pass\n✓ one <b>"
    with check("two"):
        pass
    assert repr(check).startswith("Exercise 1: all 2 checks pass\n")
    assert "one &lt;b&gt;" in check._repr_html_()


STUDENT = """import torch

def helper(x):
    return x[5]

def answer(x):
    return helper(x)

def not_written(x):
    raise NotImplementedError("your code here")

def in_library(x):
    return torch.stack([])
"""
CHECK = """from labkit.checks import Checks, equal

def at(x):
    return answer(x)

check = Checks("Exercise 1")
with check("index"):
    equal(at([1]), 1)
with check("first"):
    equal(not_written(1), 1)
with check("second"):
    equal(not_written(2), 2)
with check("library"):
    equal(in_library(1), 1)
check.report()
"""


def test_an_exception_is_shown_with_the_line_of_the_readers_cell() -> None:
    notebook = nbformat.v4.new_notebook(
        cells=list(map(nbformat.v4.new_code_cell, (STUDENT, CHECK)))
    )
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[1].outputs  # one report, and no error
    assert output.output_type == "display_data"
    assert output.data["text/plain"].splitlines() == [
        "Exercise 1: 0 of 4 checks pass",
        "✗ index",
        "    IndexError: list index out of range",
        "    In[1], line 4, in helper: return x[5]",
        "✗ first",
        "    NotImplementedError: your code here",
        '    In[1], line 10, in not_written: raise NotImplementedError("your code here")',
        "✗ second",
        "    the same",
        "✗ library",
        "    RuntimeError: stack expects a non-empty TensorList",
        "    In[1], line 13, in in_library: return torch.stack([])",
    ]
    page = output.data["text/html"]
    words = html.unescape(re.sub(r"<[^>]+>", "\n", page))
    for line in output.data["text/plain"].splitlines():
        assert line.removeprefix("✗ ").strip() in words
    assert "Traceback" not in page
