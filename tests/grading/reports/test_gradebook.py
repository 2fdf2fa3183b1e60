import csv

import pytest
from helpers.made_assignments import load_tiny
from helpers.made_entries import make_entries

from labkit.errors import LabkitError
from labkit.grading.intake.student import Student
from labkit.grading.reports.gradebook import Entry, number, write_gradebook


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path)


@pytest.fixture
def entries(tmp_path, loaded):
    return make_entries(tmp_path, loaded)


def read(path, encoding="utf-8"):
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.reader(file))


def test_gradebook_has_a_row_a_student(tmp_path, loaded, entries):
    write_gradebook(entries, loaded, tmp_path)
    header, *rows = read(tmp_path / "gradebook.csv", "utf-8-sig")
    book = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(book) == ["ada", "bob", "'=EVIL()", "dan {x} ü", "eve"]
    ada = book["ada"]
    assert ada["name"] == "Lovelace, Ada"
    assert (ada["points"], ada["out_of"], ada["unread"]) == ("9", "10", "1")
    assert (ada["values"], ada["all-or-nothing"], ada["truth"], ada["why"]) == ("4", "2", "3", "")
    assert (ada["state"], ada["isolation"], ada["content_hash"]) == ("ok", "namespaces", "a1")
    bob = book["bob"]
    # 2 of 4 cases of 4 points, nothing, 3 points: 5, of which 80 % are kept.
    assert (bob["points"], bob["values"], bob["truth"]) == ("4", "2", "3")
    assert bob["late"] == "2 days late, 20 % off"
    assert bob["look_at"] == "an earlier one of 3 May"
    assert bob["why"] == "0"
    assert "check the notebook" in book["'=EVIL()"]["look_at"]
    assert book["eve"]["points"] == ""
    assert book["eve"]["state"] == "not graded: the zip file is damaged"


def test_canvas_reads_its_columns(tmp_path, loaded, entries):
    write_gradebook(entries, loaded, tmp_path)
    rows = read(tmp_path / "canvas.csv")
    assert rows[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Tiny & small"]
    assert rows[1] == ["    Points Possible", "", "", "", "", "10"]
    assert rows[2] == ["Lovelace, Ada", "11", "", "", "", "9"]
    assert rows[3] == ["Bob Ö. Ç", "", "", "", "", "4"]
    assert rows[6] == ["eve", "", "", "", "", ""]
    assert not (tmp_path / "canvas.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_moodle_reads_its_columns_where_its_numbers_are_known(tmp_path, loaded, entries):
    paths = write_gradebook(entries, loaded, tmp_path)
    assert [path.name for path in paths] == ["gradebook.csv", "canvas.csv", "moodle.csv"]
    assert read(tmp_path / "moodle.csv") == [
        ["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)"],
        ["Participant 901", "Lovelace, Ada", "9", "10", "-"],
    ]
    write_gradebook(entries[1:], loaded, tmp_path)
    assert not (tmp_path / "moodle.csv").exists()


def test_an_empty_class(tmp_path, loaded):
    write_gradebook([], loaded, tmp_path)
    assert len(read(tmp_path / "gradebook.csv", "utf-8-sig")) == 1


def test_no_cell_is_a_formula(tmp_path, loaded):
    names = ["=1+1", "+1", "-1", "@x", "\tx", "a\0b", 'quote " comma , line\nbreak']
    write_gradebook([Entry(Student(name), None) for name in names], loaded, tmp_path)
    rows = read(tmp_path / "gradebook.csv", "utf-8-sig")[1:]
    assert [row[0] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "ab", names[-1]]


@pytest.mark.parametrize(
    ("points", "text"),
    [(None, ""), (0.0, "0"), (10, "10"), (2.5, "2.5"), (1 / 3, "0.33"), (-0.001, "0")],
)
def test_points_have_two_decimals_at_most(points, text):
    assert number(points) == text


def test_a_folder_that_cannot_be_written(tmp_path, loaded):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabkitError, match=r"gradebook\.csv: cannot be written"):
        write_gradebook([], loaded, tmp_path / "file")
