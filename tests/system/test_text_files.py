"""Text with and without a byte order mark is the same text."""

import datetime
import json
import time

import nbformat
import pytest

from labkit.datasets.json_fields import json_excerpt, read_json_file
from labkit.errors import LabkitError
from labkit.system.message_text import counted, listed
from labkit.system.text_files import decoded, parse_toml
from labkit.workbook.notebook_sources import load_notebook

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_marks_are_left_out(tmp_path, encoding):
    assert decoded("Größe 1".encode(encoding)) == "Größe 1"
    (tmp_path / "a.json").write_bytes(json.dumps({"é": 1}).encode(encoding))
    assert read_json_file(tmp_path / "a.json") == {"é": 1}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_notebooks_too(tmp_path, encoding):
    (tmp_path / "a.py").write_bytes("# %%\nnumber = 1\n".encode(encoding))
    notebook = load_notebook(tmp_path / "a.py")
    assert notebook.cells[0].source == "number = 1"
    (tmp_path / "a.ipynb").write_bytes(nbformat.writes(notebook).encode(encoding))
    assert load_notebook(tmp_path / "a.ipynb").cells[0].source == "number = 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', 'the key "a" occurs twice in one object'),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON file"),
        (b'{"a": [1, 2', "not a JSON file"),
    ],
)
def test_what_is_no_json(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LabkitError, match=rf"a\.json: .*{message}"):
        read_json_file(tmp_path / "a.json")


def test_one_and_several():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(1, "category", "categories") == "1 category"
    assert counted(2, "category", "categories") == "2 categories"
    assert listed([1, 2, 3], most=2) == "1, 2, ..."


def test_toml_that_is_deeper_than_anybody_writes():
    assert parse_toml("a.b = 1 # é\n".encode()) == {"a": {"b": 1}}
    dots = "." * 300
    assert parse_toml(f"# {dots}\na = 1\n".encode()) == {"a": 1}  # a comment may have a line
    assert parse_toml(("a" + ".a" * 200 + " = 1").encode())
    for text, message in (
        ("\na" + ".a" * 201 + " = 1", "line 2 has 201 dots"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "{a=" * 5_000, "nested too deeply"),
        ("a = " + "1" * 5_000, "limit"),
        ("a = ", "Invalid value"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_toml(text.encode())
    with pytest.raises(UnicodeDecodeError):
        parse_toml(b"a = '\xff'")


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "9223372036854775808"])
def test_integers_that_toml_does_not_know(number):
    """Python reads them and, from 4300 digits on, cannot show them."""
    assert parse_toml(b"a = -9223372036854775808") == {"a": -(2**63)}
    with pytest.raises(ValueError, match="an integer of more than 64 bits"):
        parse_toml(f"a = [{{b = {number}}}]".encode())


def test_a_key_of_many_that_occurs_twice(tmp_path):
    """In a moment: not every key is counted in all the others."""
    keys = ",".join(f'"{n}": 0' for n in range(200_000))
    (tmp_path / "a.json").write_text(f'{{{keys}, "199999": 0}}')
    began = time.process_time()
    with pytest.raises(LabkitError, match='the key "199999" occurs twice'):
        read_json_file(tmp_path / "a.json")
    assert time.process_time() - began < 5


def test_what_messages_show():
    nested: list = []
    for _ in range(2000):
        nested = [nested]
    assert json_excerpt(nested) == "nested deeply"
    assert json_excerpt("x" * 1000) == f'the text "{"x" * 60}"'
    assert len(json_excerpt(list(range(1000)))) == 60
    assert json_excerpt(datetime.date(2026, 1, 2)) == '"2026-01-02"'  # of TOML
