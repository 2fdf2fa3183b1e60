"""The zip files as Moodle and Canvas read them: their own rules, written down here."""

import zipfile
from dataclasses import replace

import nbformat
import pytest
from helpers.made_assignments import load_tiny
from helpers.made_entries import make_entries

from labkit.grading.intake.student import Student
from labkit.grading.reports.feedback_zip import write_feedback_zips


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path)


def submitted(entry, file, **student):
    return replace(entry, file=file, student=Student("key", **student))


def moodle_reads(name):
    """Return whom a file is for and under which name: importziplib.php of Moodle 4."""
    parts = name.split("/")
    while parts:
        info = parts.pop(0).split("_", 4)
        if len(info) >= 4 and info[1].isdigit() and info[2:4] == ["assignsubmission", "file"]:
            return int(info[1]), "/".join([*info[4:], *parts])
    return None


def canvas_reads(name):
    """Return the numbers of student and file: infer_comment_context_from_filename of Canvas."""
    parts = [part for part in name.split("_") if part != "LATE"]
    assert not parts[-1].startswith("link")
    return [int(part) for part in parts if part.isdigit()][:2]


def test_what_moodle_takes(tmp_path, loaded):
    bob = make_entries(tmp_path, loaded)[1]
    entries = [
        submitted(bob, "a.ipynb", name="Lovelace, Ada", moodle_id="901"),
        submitted(bob, "b.ipynb", name="Bob_7 Ö/x", moodle_id="902"),
        submitted(bob, "c.ipynb"),
    ]
    assert [path.name for path in write_feedback_zips(entries, loaded, tmp_path)] == [
        "feedback_moodle.zip"
    ]
    with zipfile.ZipFile(tmp_path / "feedback_moodle.zip") as archive:
        found = [moodle_reads(name) for name in archive.namelist()]
        page = archive.read(archive.namelist()[0]).decode()
    assert found == [(901, "feedback.html"), (902, "feedback.html")]
    assert "2 of 4 cases right" in page


def test_what_canvas_takes(tmp_path, loaded):
    bob = make_entries(tmp_path, loaded)[1]
    entries = [
        submitted(bob, "lovelaceada_1011_2001_homework_2.ipynb", canvas_id="1011"),
        submitted(bob, "bobo_LATE_1012_2002_homework.zip/a.ipynb", canvas_id="1012"),
        submitted(bob, "evil_1013_2003_homework.pdf", canvas_id="1013"),
    ]
    write_feedback_zips(entries, loaded, tmp_path)
    assert not (tmp_path / "feedback_moodle.zip").exists()
    with zipfile.ZipFile(tmp_path / "feedback_canvas.zip") as archive:
        names = archive.namelist()
        notebook = nbformat.reads(archive.read(names[0]).decode(), as_version=4)
    assert [canvas_reads(name) for name in names] == [[1011, 2001], [1012, 2002], [1013, 2003]]
    # Canvas shows it under the name of the file handed in.
    assert [name.rpartition(".")[2] for name in names] == ["ipynb", "html", "html"]
    nbformat.validate(notebook)
    source = notebook.cells[0].source
    assert "2 of 4 cases right" in source
    assert not any(line != line.strip() or not line for line in source.splitlines())


def test_zips_of_before_go_away(tmp_path, loaded):
    entry = make_entries(tmp_path, loaded)[1]
    write_feedback_zips([submitted(entry, "a", name="A", moodle_id="1")], loaded, tmp_path)
    assert write_feedback_zips([submitted(entry, "a")], loaded, tmp_path) == []
    assert not (tmp_path / "feedback_moodle.zip").exists()
