"""Checks of an exercise, in a lesson or an assignment: all run, and each reports what it got.

    check = Checks("Exercise 1")
    with check("on a cell its own value"):
        equal(bilinear(cells, 2.0, 1.0), 7)
    with check("no points give no values"):
        has_shape(bilinear(cells, *no_points), (1, 0))
    check.report()

They help students while they work. Grading is independent of them and uses other inputs.
"""

from __future__ import annotations

import html
import linecache
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

SHOWN = 160
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Result:
    """Result of a check; `problem` is empty if it passed."""

    name: str
    problem: str


class Checks:
    """The checks of one exercise.

    Args:
        title: of the exercise.

    Attributes:
        results: of the checks so far.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.results: list[Result] = []

    def __call__(self, name: str) -> _Check:
        """Return the context that one check runs in: ``with check("no boxes"): ...``."""
        return _Check(name, self.results)

    @property
    def failed(self) -> list[Result]:
        """Results of the failed checks."""
        return [result for result in self.results if result.problem]

    def report(self) -> None:
        """Show how many checks passed, and the problems of the others."""
        from IPython.display import display

        display(self)

    def __repr__(self) -> str:
        lines = [self._summary()]
        for result, problem in self._problems():
            lines.append(f"{'✗' if result.problem else '✓'} {result.name}")
            lines += [f"    {line}" for line in problem.splitlines()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        items = "".join(_item(result, problem) for result, problem in self._problems())
        return f"<div><b>{html.escape(self._summary())}</b>{items}</div>"

    def _summary(self) -> str:
        total, passed = len(self.results), len(self.results) - len(self.failed)
        count = f"all {total}" if passed == total > 1 else f"{passed} of {total}"
        return f"{self.title}: {count} checks pass"

    def _problems(self) -> list[tuple[Result, str]]:
        """Pairs of a result and its problem; a repeated problem is shortened."""
        problems, last = [], ""
        for result in self.results:
            problems.append(
                (
                    result,
                    "the same" if result.problem and result.problem == last else result.problem,
                )
            )
            last = result.problem
        return problems


class _Check:
    """Context of one check; an exception inside becomes its result."""

    def __init__(self, name: str, results: list[Result]) -> None:
        self.name, self.results = name, results

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False  # the reader stops the kernel
        problem = "" if error is None or trace is None else _problem(error, trace)
        self.results.append(Result(self.name, problem))
        return True


def equal(got: Any, expected: Any, within: float = 0.0) -> None:
    """Require a value to be the expected one: numbers, text, containers, tensors, arrays.

    Types do not matter: a tensor is equal to the list of its values.

    Args:
        got: the value.
        expected: what it should be.
        within: the largest difference of two numbers that counts as none.

    Raises:
        AssertionError: it is not; the message says what was got, where it differs first.
    """
    difference = _difference(got, expected, within)
    if difference:
        raise AssertionError(difference)


def has_shape(got: Any, shape: tuple[int, ...]) -> None:
    """Require a tensor or an array to have a shape.

    Raises:
        AssertionError: it has another one, or is something else.
    """
    found = getattr(got, "shape", None)
    if found is None:
        raise AssertionError(f"got {_show(got)}, expected a tensor of shape {shape}")
    if tuple(found) != tuple(shape):
        raise AssertionError(f"got the shape {tuple(found)}, expected {tuple(shape)}")


def _difference(got: Any, expected: Any, within: float) -> str:
    """Describe the difference of two values; "" without one."""
    whole = f"got {_show(got)}, expected {_show(expected)}"
    if isinstance(expected, dict) and isinstance(got, dict):
        if set(got) != set(expected):
            return f"got the keys {_show(list(got))}, expected {_show(list(expected))}"
        for key, value in expected.items():
            difference = _difference(got[key], value, within)
            if difference:
                return f"at {key!r}: {difference}"
        return ""
    try:
        mine, right = _array(got), _array(expected)
    except (TypeError, ValueError):  # of unequal rows, or of no numbers
        rows = (list, tuple)
        if not (isinstance(got, rows) and isinstance(expected, rows)):
            return "" if _same(got, expected) else whole
        if len(got) != len(expected):
            return whole
        differences = (_difference(*pair, within) for pair in zip(got, expected, strict=True))
        return next((f"at [{i}]: {text}" for i, text in enumerate(differences) if text), "")
    if not (_numbers(mine) and _numbers(right)):
        return "" if _same(got, expected) else whole
    if mine.shape != right.shape:
        shapes = f"got the shape {mine.shape}, expected {right.shape}"
        return shapes if mine.ndim and right.ndim else whole
    # Whole numbers are compared as they are: those above 2**53 are not all floats.
    exact = within == 0 and mine.dtype.kind in "bui" and right.dtype.kind in "bui"
    wrong = mine != right if exact else ~_near(mine, right, within)
    if not wrong.any():
        return ""
    if mine.ndim == 0 or mine.size <= 1:
        return whole
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    first = f"at {list(place)} got {_show(mine[place])}, expected {_show(right[place])}"
    if mine.size <= 12:
        return f"{whole}; first {first}"
    return f"{int(wrong.sum())} of {wrong.size} values differ; first {first}"


def _near(mine: np.ndarray, right: np.ndarray, within: float) -> np.ndarray:
    same = (mine == right) | (np.isnan(mine.astype(float)) & np.isnan(right.astype(float)))
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.asarray(same | (np.abs(mine.astype(float) - right.astype(float)) <= within))


def _same(got: Any, expected: Any) -> bool:
    return type(got) is type(expected) and bool(got == expected)


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    elif isinstance(value, (list, tuple)) and any(hasattr(item, "detach") for item in value):
        value = [_array(item) for item in value]
    return np.asarray(value)


def _numbers(array: np.ndarray) -> bool:
    return array.dtype.kind in "buif"


def _show(value: Any) -> str:
    """Format a value, integers without a point, and cut long ones."""
    if hasattr(value, "detach") or isinstance(value, np.ndarray):
        array = _array(value)
        if array.size > 12:
            return f"a tensor of shape {array.shape}"
        value = array.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    text = _written(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if value is None:
        return "None (is there a return?)"
    return repr(value)


def _problem(error: Exception, trace: TracebackType) -> str:
    """Message of the check, or an exception with the line of the reader's cell that raised it."""
    frames = list(traceback.walk_tb(trace))
    cell = frames[0][0]
    name = cell.f_code.co_filename
    # Cells share their variables; what is called in libraries has others.
    own = [
        (frame, line)
        for frame, line in frames
        if frame.f_globals is cell.f_globals and frame.f_code.co_filename != name
    ]
    if isinstance(error, AssertionError) and not own:
        return str(error) or linecache.getline(name, frames[0][1]).strip() or "it does not hold"
    message = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {message[0][:SHOWN]}" if message else type(error).__name__
    if own:
        frame, line = own[-1]
        code = linecache.getline(frame.f_code.co_filename, line).strip()
        where = f"{_cell(frame.f_code.co_filename)}line {line}, in {frame.f_code.co_name}"
        return f"{said}\n{where}" + (f": {code}" if code else "")
    if isinstance(error, NameError):
        return f"{said}; run the cells above first"
    return said


def _cell(file_name: str) -> str:
    """Number in the cell's prompt, such as "In[3], "; "" outside a notebook."""
    from IPython import get_ipython

    shell = get_ipython()
    found = None if shell is None else shell.compile.format_code_name(file_name)
    return f"{found[1]}, " if found else ""


MARKS = {True: ("✓", "--jp-success-color1, #2e7d32"), False: ("✗", "--jp-error-color1, #c62828")}
MARK = "display:inline-block;width:1.4em;font-weight:bold"
SAID = "padding-left:1.4em;white-space:pre-wrap;font:0.93em var(--jp-code-font-family, monospace)"


def _item(result: Result, problem: str) -> str:
    """Format a result as HTML, in the colours of JupyterLab's theme."""
    mark, color = MARKS[not result.problem]
    said = f'<div style="{SAID}">{html.escape(problem)}</div>' if problem else ""
    name = f'<span style="{MARK};color:var({color})">{mark}</span>{html.escape(result.name)}'
    return f"<div>{name}{said}</div>"
