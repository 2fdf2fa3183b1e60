from __future__ import annotations

from typing import Any

import nbformat
import pytest

from labkit.errors import LabkitError
from labkit.workbook.parameters import (
    coerce,
    computed,
    dependent_lines,
    parse_assignments,
    read_parameters,
)

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
    with pytest.raises(LabkitError, match=r"07_demo has no parameter 'step'.*mean steps"):
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


UNTYPED = """
offset = -1
rate = -0.5  # per step
limit = None
sizes = [64, 128]
names = ["a", "b"]
mixed = [1, "a"]
nothing = []
pair = (1, 2)
table = {"a": 1}
batch = 2 * 3
size = 2 ** 10
third = 1 / 3
first = second = "x"
flag = True
"""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("offset", "-2", -2),
        ("rate", "-1", -1.0),
        ("limit", "7", 7),
        ("limit", "-0.5", -0.5),
        ("limit", "none", None),
        ("limit", "true", True),
        ("limit", "[1, 2]", [1, 2]),
        ("limit", "a b", "a b"),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "-3, 0.5", [-3, 0.5]),
        ("sizes", "[]", []),
        ("names", "c,d", ["c", "d"]),
        ("mixed", "[2, b]", [2, "b"]),
        ("nothing", "1, a", [1, "a"]),
        ("pair", "(3, 4)", (3, 4)),
        ("pair", "[3, 4]", (3, 4)),
        ("table", "{'b': 2}", {"b": 2}),
        ("batch", "5", 5),
        ("size", "4", 4),
        ("third", "2", 2.0),
        ("first", "y", "y"),
        ("second", "y", "y"),
        ("flag", "false", False),
    ],
)
def test_values_without_a_type(name: str, text: str, value: object) -> None:
    typed = coerce({name: text}, declared(UNTYPED), "07_demo")
    assert typed == {name: value}
    assert type(typed[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("offset", "1.5"), ("offset", "none"), ("batch", "x"), ("pair", "3"), ("table", "[1]")],
)
def test_ill_typed_without_a_type(name: str, text: str) -> None:
    with pytest.raises(LabkitError, match=rf"07_demo: parameter {name} = .*is not allowed"):
        coerce({name: text}, declared(UNTYPED), "07_demo")


TYPED = """
from typing import Optional
limit: Optional[int] = None
again: typing.Optional[float] = 0.5
either: Union[int, str] = 1
steps: "int" = 1
rate: Annotated[float, "per step"] = 0.5
fixed: Final[int] = 3
old: List[int] = [1]
plain: list = [1]
free: Any = None
needed: int
size: tuple[int, int] = (1, 2)
table: dict[str, int] = {}
"""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("limit", "3", 3),
        ("limit", "none", None),
        ("again", "1", 1.0),
        ("either", "x", "x"),
        ("steps", "2", 2),
        ("rate", "2", 2.0),
        ("fixed", "4", 4),
        ("old", "1, 2", [1, 2]),
        ("plain", "1, a", [1, "a"]),
        ("free", "a", "a"),
        ("needed", "1", 1),
        ("size", "(3, 4)", (3, 4)),
        ("table", "{'a': 1}", {"a": 1}),
    ],
)
def test_values_of_every_type(name: str, text: str, value: object) -> None:
    typed = coerce({name: text}, declared(TYPED), "07_demo")
    assert typed == {name: value}
    assert type(typed[name]) is type(value)


@pytest.mark.parametrize("annotation", ["Optional[()]", "Union[()]", "list[()]", "Final[()]"])
def test_empty_brackets_are_of_no_known_type(annotation: str) -> None:
    (parameter,) = declared(f"limit: {annotation} = None").values()
    assert parameter.convert is None
    assert declared("size: tuple[()] = ()")["size"].convert is not None


def test_commands_of_ipython_are_no_parameters() -> None:
    assert set(declared("%matplotlib inline\n!ls\nx = 1")) == {"x"}


def test_cell_that_is_not_plain_python() -> None:
    with pytest.raises(LabkitError, match=r"07_demo.*not plain Python"):
        declared("x: int =")


@pytest.mark.parametrize("kind", ["Path", "Literal[A]", "np.ndarray", "'(('", "Callable[[], int]"])
def test_unsupported_type(kind: str) -> None:
    found = declared(f"x: {kind} = None\nsteps = 1")
    assert coerce({"steps": "2"}, found, "07_demo") == {"steps": 2}  # no other one's business
    with pytest.raises(LabkitError, match=r"parameter x is declared .* supported are str"):
        coerce({"x": "1"}, found, "07_demo")


def notebook_of(*sources: str) -> Any:
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for source in sources
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_what_is_computed_says_how_to_declare_it() -> None:
    notebook = notebook_of("n = 2 * 3\nm = n + 1")
    values, found = {"m": "3"}, read_parameters(notebook, "07_demo")
    with pytest.raises(LabkitError, match=r"07_demo: m is computed \(m = n \+ 1\).*m: int = "):
        coerce(values, found, "07_demo", computed(notebook, "07_demo"))


def test_what_is_computed_from_a_parameter_is_computed_again() -> None:
    notebook = notebook_of("n = 2\nm = n + 1\nk: int = m * 2\nother = 5\nn = n\nlast = k")
    assert dependent_lines(notebook, {"n"}) == ["m = n + 1", "k: int = m * 2", "last = k"]
    assert dependent_lines(notebook, {"n", "m"}) == ["k: int = m * 2", "last = k"]
    assert dependent_lines(notebook, {"other"}) == []


def test_two_cells_of_parameters() -> None:
    with pytest.raises(LabkitError, match="cells 1 and 2 are tagged parameters"):
        read_parameters(notebook_of("a = 1", "a = 3"), "07_demo")


def test_notebook_without_parameters() -> None:
    assert read_parameters(nbformat.v4.new_notebook(), "07_demo") == {}


def test_a_number_that_python_reads_and_does_not_print() -> None:
    huge = "0x" + "f" * 5_000
    with pytest.raises(LabkitError, match=r"07_demo: .* number of more than \d+ digits; compute"):
        read_parameters(notebook_of(f"n = 1\nm = [1, {huge}]"), "07_demo")
    found = read_parameters(notebook_of("n = None\nm = [[1]]"), "07_demo")
    for name, text in (("n", huge), ("n", f"{{1: {huge}}}"), ("m", f"[{huge}, []]")):
        with pytest.raises(LabkitError, match=f"07_demo: parameter {name} = .* is not allowed"):
            coerce({name: text}, found, "07_demo")


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "(" * 10_000,
        "x = " + "-" * 100_000 + "1",
        "x = " + "[" * 150 + "]" * 150,
        "x = " + "1+" * 50_000 + "1",
        "x = " + "1+" * 2_000 + "1",
        "x: " + "list[" * 120 + "int" + "]" * 120 + " = 1",
        "x: " + "int | " * 3_000 + "int = 1",
        "x: " + "a." * 3_000 + "b = 1",
        "x: " + "'" * 3 + "\\'" * 100 + "'" * 3 + " = 1",
        "x = 1\0",
        "x = {[]: 1}",
        "x: '" + "(" * 10_000 + "' = 1",
        "x: '" + "int | " * 3_000 + "int' = 1",
        "x = " + "1" * 5_000,
        "x = 0x" + "f" * 5_000,
        "x: int = 1 + 0b" + "1" * 50_000,
        "x: Literal[0x" + "f" * 5_000 + "] = 1",
        "x: 'Literal[0x" + "f" * 5_000 + "]' = 1",
    ],
)
def test_what_python_itself_cannot_go_into(source: str) -> None:
    """A refusal or a result, of reading and of every use; the parser gave a MemoryError."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    try:
        found = read_parameters(notebook, "deep")
        computed(notebook, "deep")
        dependent_lines(notebook, {"y"})
        for parameter in found:
            coerce({parameter: "1"}, found, "deep")
    except LabkitError as error:
        assert str(error).startswith("deep")  # noqa: PT017
