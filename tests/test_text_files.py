"""Text with and without a byte order mark is the same text."""

import json

import nbformat
import pytest

from labkit.counted import counted, listed
from labkit.datasets.json_fields import read_json_file
from labkit.errors import LabkitError
from labkit.notebooks import load
from labkit.text_files import decoded

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_marks_are_left_out(tmp_path, encoding):
    assert decoded("Größe 1".encode(encoding)) == "Größe 1"
    (tmp_path / "a.json").write_bytes(json.dumps({"é": 1}).encode(encoding))
    assert read_json_file(tmp_path / "a.json") == {"é": 1}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_notebooks_too(tmp_path, encoding):
    (tmp_path / "a.py").write_bytes("# %%\nnumber = 1\n".encode(encoding))
    notebook = load(tmp_path / "a.py")
    assert notebook.cells[0].source == "number = 1"
    (tmp_path / "a.ipynb").write_bytes(nbformat.writes(notebook).encode(encoding))
    assert load(tmp_path / "a.ipynb").cells[0].source == "number = 1"


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
