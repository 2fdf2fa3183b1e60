"""Whose is what: folders, files, zip files from Canvas and Moodle, and hostile ones."""

import os
import struct
import sys
import zipfile
from datetime import datetime

import pytest

from labkit.errors import LabkitError
from labkit.grading.intake import unpack
from labkit.grading.intake.submissions import collect

NOTEBOOK = '{"cells": [], "metadata": {%s}, "nbformat": 4, "nbformat_minor": 5}'


def notebook(mark="", declared=""):
    metadata = f'"labkit": {{"assignment": "{declared}"}}, ' if declared else ""
    return NOTEBOOK % f'{metadata}"mark": "{mark}"'


def put(path, content=None, seconds=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if content is not None else notebook(str(path)), encoding="utf-8")
    if seconds is not None:
        os.utime(path, (seconds, seconds))
    return path


def pack(path, members, when=(2026, 5, 2, 12, 30, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, when), content)
    return path


def found(source, tmp_path, assignment="iou"):
    collection = collect(source, tmp_path / "unpacked", assignment)
    return {one.student.key: one for one in collection.students}, collection


def files(submitted):
    return [one.file for one in submitted.submissions]


def test_folder_of_files_and_folders(tmp_path):
    folder = tmp_path / "in"
    put(folder / "ada {x} ünï.ipynb")
    put(folder / "bob" / "old.ipynb", seconds=1000)
    put(folder / "bob" / "deep" / "a new one.ipynb", seconds=2000)
    put(folder / "bob" / ".ipynb_checkpoints" / "old-checkpoint.ipynb")
    put(folder / "carol.ipynb.txt")
    put(folder / "dan" / "report.pdf")
    put(folder / "grades.csv")
    pack(folder / "eve.zip", {"work/hw.ipynb": notebook("eve"), "work/data.csv": "1"})
    (folder / "mallory.zip").write_bytes(b"PK\3\4 not really")
    (folder / "trudy").mkdir()
    (folder / "trudy" / "passwords.ipynb").symlink_to("/etc/passwd")
    students, collection = found(folder, tmp_path)
    assert sorted(students) == [
        "ada {x} ünï",
        "bob",
        "carol",
        "dan",
        "eve",
        "mallory",
        "trudy",
    ]
    assert files(students["bob"]) == ["bob/old.ipynb", "bob/deep/a new one.ipynb"]
    assert students["bob"].submissions[0].received.timestamp() == 1000
    assert files(students["eve"]) == ["eve.zip/work/hw.ipynb"]
    assert students["eve"].submissions[0].received == datetime(2026, 5, 2, 12, 30).astimezone()
    assert students["dan"].notes == ("no notebook submitted (only report.pdf)",)
    assert "not a zip file, or damaged" in students["mallory"].notes[1]
    assert students["trudy"].notes[1] == "trudy/passwords.ipynb: a link, not a file"
    assert collection.problems == ("ignored, neither notebooks nor zip files: grades.csv",)


@pytest.mark.parametrize("zipped", [True, False])
def test_canvas(tmp_path, zipped):
    members = {
        "lovelaceada_101_5001_hw.ipynb": notebook("1"),
        "lovelaceada_101_5003_hw-1.ipynb": notebook("2"),
        "buildbob_LATE_102_5002_my_hw (1).ipynb": notebook("3"),
        "buildbob_103_5004_hw.zip": b"",
    }
    inner = pack(tmp_path / "inner.zip", {"hw.ipynb": notebook("4")})
    members["buildbob_103_5004_hw.zip"] = inner.read_bytes()
    source = pack(tmp_path / "submissions.zip", members)
    if not zipped:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(tmp_path / "in")
        source = tmp_path / "in"
    students, _ = found(source, tmp_path)
    ada, bob = students["lovelaceada_101"], students["buildbob_102"]
    assert (ada.student.name, ada.student.canvas_id) == ("lovelaceada", "101")
    assert [one.number for one in ada.submissions] == [5001, 5003]
    assert bob.submissions[0].marked_late
    assert not ada.submissions[0].marked_late
    # The archive's times are those of the download.
    assert bob.submissions[0].received is None
    assert files(students["buildbob_103"]) == ["buildbob_103_5004_hw.zip/hw.ipynb"]


def test_moodle_with_folders_and_without(tmp_path):
    members = {
        "Ada Lövelace_77_assignsubmission_file/hw.ipynb": notebook("1"),
        "Ada Lövelace_77_assignsubmission_onlinetext/onlinetext.html": "<p>",
        "Bob_B_78_assignsubmission_file_hw.ipynb": notebook("2"),
        "Carol_79_assignsubmission_file_/sub/hw.ipynb": notebook("3"),
    }
    students, collection = found(pack(tmp_path / "course.zip", members), tmp_path)
    assert {key: one.student.moodle_id for key, one in students.items()} == {
        "Ada Lövelace_77": "77",
        "Bob_B_78": "78",
        "Carol_79": "79",
    }
    assert students["Bob_B_78"].student.name == "Bob_B"
    assert files(students["Ada Lövelace_77"]) == ["Ada Lövelace_77_assignsubmission_file/hw.ipynb"]
    assert collection.problems == ()


def test_folder_around_everything_and_a_folder_with_one_zip(tmp_path):
    members = {"class/ada/hw.ipynb": notebook("1"), "class/bob/hw.ipynb": notebook("2")}
    pack(tmp_path / "in" / "any.zip", members)
    students, _ = found(tmp_path / "in", tmp_path)
    assert list(students) == ["ada", "bob"]


def test_same_file_twice_and_another_assignments(tmp_path):
    folder = tmp_path / "in"
    put(folder / "ada" / "1.ipynb", notebook("x", "iou"), seconds=1000)
    put(folder / "ada" / "2.ipynb", notebook("x", "iou"), seconds=3000)
    put(folder / "ada" / "3.ipynb", notebook("y", "other"), seconds=2000)
    put(folder / "bob" / "3.ipynb", notebook("z", "other"))
    students, _ = found(folder, tmp_path)
    assert files(students["ada"]) == ["ada/1.ipynb"]
    assert students["ada"].notes == ("ada/3.ipynb: ignored, not a notebook of this assignment",)
    assert students["bob"].submissions[0].declared == "other"


def test_hostile_zip(tmp_path):
    outside = tmp_path / "evil.ipynb"
    link = zipfile.ZipInfo("link.ipynb")
    link.external_attr = 0o120777 << 16
    source = tmp_path / "in" / "mallory.zip"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("../../evil.ipynb", "{}")
        archive.writestr("/evil.ipynb", "{}")
        archive.writestr("..\\evil.ipynb", "{}")
        archive.writestr("C:/evil.ipynb", "{}")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.ipynb", notebook("good"))
    put(tmp_path / "in" / "ada.ipynb")
    students, _ = found(tmp_path / "in", tmp_path)
    assert files(students["mallory"]) == ["mallory.zip/good.ipynb"]
    assert sum("a path outside" in note for note in students["mallory"].notes) == 4
    assert any("a link, not a file" in note for note in students["mallory"].notes)
    assert not outside.exists()
    names = [path.name for path in (tmp_path / "unpacked").iterdir()]
    assert names == [f"{students['mallory'].submissions[0].content_hash}.ipynb"]


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_FILE_BYTES", 1_000_000)
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 50)
    folder = tmp_path / "in"
    zeros = b"0" * 3_000_000
    lying = pack(folder / "lying.zip", {"a.ipynb": zeros})
    content = lying.read_bytes()
    at = content.rindex(b"PK\1\2") + 24  # the size that the directory states
    lying.write_bytes(content[:at] + struct.pack("<I", 10) + content[at + 4 :])
    pack(folder / "large.zip", {"a.ipynb": zeros, "b.ipynb": notebook("b"), "c.bin": zeros})
    pack(folder / "many.zip", {f"{number}.ipynb": "{}" for number in range(51)})
    nested = pack(tmp_path / "nested.zip", {"in.ipynb": notebook("in")}).read_bytes()
    twice = pack(tmp_path / "twice.zip", {"n.zip": nested, "x.ipynb": notebook("x")}).read_bytes()
    pack(folder / "deep.zip", {"t.zip": twice})
    students, _ = found(folder, tmp_path)
    assert files(students["large"]) == ["large.zip/b.ipynb"]
    assert "too large" in students["large"].notes[0]
    assert files(students["lying"]) == []
    assert "more than 50 files" in students["many"].notes[1]
    assert files(students["deep"]) == ["deep.zip/t.zip/x.ipynb"]  # one zip in another, no more
    written = sum(path.stat().st_size for path in (tmp_path / "unpacked").iterdir())
    assert written < 1000


def test_encrypted(tmp_path):
    path = pack(tmp_path / "in" / "ada.zip", {"hw.ipynb": notebook("a")})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(bytes(content))
    put(tmp_path / "in" / "bob.ipynb")
    students, _ = found(tmp_path / "in", tmp_path)
    assert students["ada"].notes[1] == "ada.zip/hw.ipynb: encrypted with a password"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no notebook .* it is empty"),
        (["a.txt", "ada/b.pdf"], "no notebook .* it contains a.txt, b.pdf"),
    ],
)
def test_nothing_to_grade(tmp_path, names, message):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        put(folder / name)
    with pytest.raises(LabkitError, match=message):
        found(folder, tmp_path)


def test_no_such_place_and_no_zip(tmp_path):
    with pytest.raises(LabkitError, match="no such folder, zip file or notebook"):
        found(tmp_path / "nowhere", tmp_path)
    with pytest.raises(LabkitError, match="not a zip file"):
        found(put(tmp_path / "x.txt"), tmp_path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("place", range(14, 120, 7))
def test_one_damaged_notebook_does_not_hide_the_others(tmp_path, packing, place):
    """However it was packed: each way has exceptions of its own."""
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("ada.ipynb", '{"cells": []}' + " " * 30_000 + str(list(range(999))))
        archive.writestr("bob.ipynb", '{"cells": []}')
    content = bytearray(path.read_bytes())
    content[39 + place] ^= 0x5A  # 30 bytes of a header and the name stand before what is packed
    path.write_bytes(content)
    found = collect(path, tmp_path / "unpacked", "tiny")
    ada, bob = found.students
    assert ada.student.key == "ada"
    assert not ada.submissions
    assert any("damaged" in note for note in ada.notes)
    assert len(bob.submissions) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="NTFS has no such times")
def test_a_file_whose_time_no_calendar_has(tmp_path):
    path = tmp_path / "ada.ipynb"
    path.write_text('{"cells": []}')
    try:
        os.utime(path, (2**40, 2**40))
    except OSError:
        pytest.skip("this file system has no such times")
    (ada,) = collect(tmp_path, tmp_path / "unpacked", "tiny").students
    (one,) = ada.submissions
    assert one.received is None or one.received.year < 9999


@pytest.mark.parametrize("name", ["\0x.ipynb", "/", ".."])
def test_a_member_without_a_name_is_left_out(tmp_path, name):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ada.ipynb", NOTEBOOK)
        archive.writestr("~" * len(name), NOTEBOOK)
    content = path.read_bytes().replace(b"~" * len(name), name.encode())
    path.write_bytes(content)
    assert [one.student.key for one in collect(path, tmp_path / "out", "tiny").students] == ["ada"]
