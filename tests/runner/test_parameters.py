from __future__ import annotations

from typing import Any

import nbformat
import pytest

from labkit.errors import LabkitError
from labkit.runner.parameters import coerce, parse_assignments, read_parameters

CELL = """
from typing import Literal
profile: str = "quick"
steps: int = 300
rate: float = 1e-3
deform: bool = False
sizes: list[int] = [64, 128]
fusion: Literal["heuristic", "parameter-free"] = "heuristic"
radius: Literal[1, 2] = 1
limit: int | None = None
name: int | str | None = None
plain = 4
device = choose_device()
"""


def declared(source: str = CELL) -> dict[str, Any]:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    first = nbformat.v4.new_code_cell("steps: str = 'not this one'")
    return read_parameters(nbformat.v4.new_notebook(cells=[first, cell]), "07_demo")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "12", 12),
        ("rate", "0.5", 0.5),
        ("rate", "2", 2.0),
        ("deform", "true", True),
        ("deform", "False", False),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "3,4,5", [3, 4, 5]),
        ("sizes", "[]", []),
        ("fusion", "parameter-free", "parameter-free"),
        ("radius", "2", 2),
        ("limit", "none", None),
        ("limit", "7", 7),
        ("name", "7", 7),
        ("name", "none", None),
        ("name", "x=y", "x=y"),
        ("plain", "5", 5),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    typed = coerce(parse_assignments([f"{name}={text}"]), declared(), "07_demo")
    assert typed == {name: value}
    assert type(typed[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", "many"),
        ("steps", "1.5"),
        ("deform", "2"),
        ("sizes", "[1, x]"),
        ("fusion", "heuristics"),
        ("radius", "3"),
        ("limit", "null"),
        ("plain", "a"),
    ],
)
def test_ill_typed(name: str, text: str) -> None:
    parameter = declared()[name]
    with pytest.raises(LabkitError) as caught:
        coerce({name: text}, declared(), "07_demo")
    message = str(caught.value)
    assert all(part in message for part in ("07_demo", name, repr(text), parameter.annotation))


def test_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(LabkitError, match=r"07_demo has no parameter 'step'.*mean 'steps'"):
        coerce({"step": "3"}, declared(), "07_demo")


def test_computed_default_is_no_parameter() -> None:
    assert "device" not in declared()
    assert declared()["sizes"].default == "[64, 128]"


@pytest.mark.parametrize("text", ["steps", "=3", "a b=3", "profile=smoke"])
def test_malformed_assignment(text: str) -> None:
    with pytest.raises(LabkitError, match="-p"):
        parse_assignments([text])


def test_twice() -> None:
    with pytest.raises(LabkitError, match="twice"):
        parse_assignments(["a=1", "a=2"])


@pytest.mark.parametrize("source", ["%matplotlib inline", "x: int ="])
def test_cell_that_is_not_plain_python(source: str) -> None:
    with pytest.raises(LabkitError, match=r"07_demo.*not plain Python"):
        declared(source)


@pytest.mark.parametrize("kind", ["dict[str, int]", "Path", "Literal[A]"])
def test_unsupported_type(kind: str) -> None:
    with pytest.raises(LabkitError, match="07_demo: parameter x is declared"):
        declared(f"x: {kind} = None")


def test_notebook_without_parameters() -> None:
    assert read_parameters(nbformat.v4.new_notebook(), "07_demo") == {}
