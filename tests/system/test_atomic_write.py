"""A file is written whole or not at all."""

import errno

import pytest

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write


def fail_half_way(path, error):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


def test_the_new_file_replaces_the_old_one_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way(path, ZeroDivisionError())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_message(tmp_path):
    path = tmp_path / "b.txt"
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(LabkitError, match=r"b\.txt: cannot be written: No space left on device"):
        fail_half_way(path, full)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(LabkitError, match="cannot be written"),
        atomic_write(tmp_path / "file" / "b.txt"),
    ):
        pass
