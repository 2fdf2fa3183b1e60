"""Downloads, against a server on this machine that can misbehave."""

import errno
import hashlib
import io
import os
import re
import shutil
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.command import labkit

from labkit.cli import data as data_command
from labkit.datasets.fetch import catalog, verified_download
from labkit.datasets.fetch.archives import unpack
from labkit.datasets.fetch.catalog import (
    RemoteDataset,
    RemoteFile,
    catalogue,
    fetch_dataset,
    is_here,
)
from labkit.datasets.fetch.verified_download import download
from labkit.errors import LabkitError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(file_server):
    file_server.files["file.bin"] = CONTENT
    return file_server


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# One file


def test_fetches_once(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert download(server.url("file.bin"), path, SHA256, len(CONTENT)) == SHA256
    assert path.read_bytes() == CONTENT
    assert download(server.url("file.bin"), path, SHA256) == SHA256
    assert len(server.asked) == 1
    assert names(tmp_path) == ["new/file.bin"]


def test_a_broken_connection_is_taken_up_again(server, tmp_path):
    server.cut = 2
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    first, *later = server.asked
    starts = [int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) for wanted in later]
    assert first is None
    assert 0 < starts[0] < starts[1]
    assert len(starts) == 2
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_later_call_goes_on(server, tmp_path, sha256):
    server.cut = verified_download.ATTEMPTS
    with pytest.raises(LabkitError, match=r"connection broke after .* run the command again"):
        download(server.url("file.bin"), tmp_path / "file.bin", sha256)
    have = (tmp_path / "file.bin.part").stat().st_size
    assert not (tmp_path / "file.bin").exists()
    assert download(server.url("file.bin"), tmp_path / "file.bin", sha256) == SHA256
    assert server.asked[-1] == f"bytes={have}-"
    assert names(tmp_path) == ["file.bin"]


def test_an_interruption_by_the_user_keeps_the_part(server, tmp_path, monkeypatch):
    original = verified_download._Resume._copy

    def interrupted(self, response, file, total, have):
        file.write(next(response.iter_content(1000)))
        raise KeyboardInterrupt

    monkeypatch.setattr(verified_download._Resume, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1000]
    monkeypatch.setattr(verified_download._Resume, "_copy", original)
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert server.asked == [None, "bytes=1000-"]


def test_a_file_that_changed_meanwhile_starts_over(server, tmp_path):
    server.cut = verified_download.ATTEMPTS
    with pytest.raises(LabkitError):
        download(server.url("file.bin"), tmp_path / "file.bin")
    server.files["file.bin"], server.etag = CONTENT[::-1], '"two"'
    download(server.url("file.bin"), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[::-1]


def test_versions_that_cannot_be_told_apart_are_not_joined(server, tmp_path):
    server.etag = ""
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    download(server.url("file.bin"), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_server_without_range(server, tmp_path):
    server.ranges, server.cut = False, 1
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_complete_or_too_long(server, tmp_path):
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT)
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    (tmp_path / "file.bin").unlink()
    part.write_bytes(CONTENT + b"more")
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_corrupted_file_is_not_kept(server, tmp_path):
    server.files["file.bin"] = b"!" + CONTENT[1:]
    with pytest.raises(LabkitError, match="damaged or another version; it was removed"):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert names(tmp_path) == []


def test_a_corrupted_part_is_not_kept(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(LabkitError, match="it was removed"):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert names(tmp_path) == []
    download(server.url("file.bin"), tmp_path / "file.bin", SHA256)


def test_a_damaged_file_on_disk_is_told(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"old")
    with pytest.raises(LabkitError, match=r"file\.bin: its sha256 is not"):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == b"old"


def test_another_size_is_refused_before_receiving(server, tmp_path):
    with pytest.raises(LabkitError, match="announces 1,048,576 bytes, expected 5"):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256, size=5)
    assert names(tmp_path) == []


def test_missing_on_the_server(server, tmp_path):
    with pytest.raises(LabkitError, match=r"/nothing: the server answered 404"):
        download(server.url("nothing"), tmp_path / "nothing")
    assert len(server.asked) == 1


def test_no_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
    with pytest.raises(LabkitError, match=r"cannot reach 127\.0\.0\.1; check the network"):
        download(url, tmp_path / "file.bin")
    assert names(tmp_path) == []


def test_too_little_room_is_seen_before_receiving(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(verified_download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabkitError, match="1,048,576 bytes needed, 1,000 free"):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256)
    assert names(tmp_path) == []


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    def full(self, response, file, total, have):
        file.write(next(response.iter_content(1000)))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verified_download._Resume, "_copy", full)
    with pytest.raises(
        LabkitError, match=r"disk is full: 1,047,576 more bytes needed, [\d,]+ free"
    ):
        download(server.url("file.bin"), tmp_path / "file.bin", SHA256, len(CONTENT))
    assert (tmp_path / "file.bin.part").stat().st_size == 1000


# Archives


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack(tmp_path, pack):
    archive = tmp_path / "archive"
    archive.write_bytes(pack({"a/one.txt": b"1", "a/two.png": b"2", "__MACOSX/x": b"3"}))
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "mine").write_bytes(b"0")
    assert unpack(archive, tmp_path / "out", ["a/*"]) == ["a/one.txt", "a/two.png"]
    assert names(tmp_path / "out") == ["a/mine", "a/one.txt", "a/two.png"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt"])
def test_members_outside_are_refused(tmp_path, pack, name):
    archive = tmp_path / "archive"
    archive.write_bytes(pack({"good.txt": b"1", name: b"2"}))
    with pytest.raises(LabkitError, match="unsafe"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["archive"]


def test_a_link_that_leads_outside_is_refused(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    with pytest.raises(LabkitError, match="unsafe"):
        unpack(tmp_path / "archive", tmp_path / "out")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damaged_archives_leave_nothing(tmp_path, pack):
    archive = tmp_path / "archive"
    content = bytearray(pack({"one": bytes(5000), "two": bytes(range(200)) * 50}))
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(x ^ 0x55 for x in content[middle : middle + 20])
    archive.write_bytes(content)
    with pytest.raises(LabkitError, match="archive"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["archive"]


def test_no_archive_and_nothing_to_keep(tmp_path):
    archive = tmp_path / "archive"
    archive.write_text("<html>log in</html>")
    with pytest.raises(LabkitError, match="neither a zip nor a tar"):
        unpack(archive, tmp_path / "out")
    archive.write_bytes(zipped({"a": b"1"}))
    with pytest.raises(LabkitError, match=r"holds none of b\*"):
        unpack(archive, tmp_path / "out", ["b*"])


def test_no_room_to_unpack(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(zipped({"a": bytes(5000)}))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabkitError, match="5,000 bytes needed, 10 free"):
        unpack(tmp_path / "archive", tmp_path / "out")


# Data sets


@pytest.fixture
def dataset(server):
    """Like COCO: an archive with an archive in it, its hash known, and a file without one."""
    inner = zipped({"panoptic/1.png": b"png"})
    outer = zipped({"ann/p.json": b"{}", "ann/p.zip": inner, "ann/train.json": b"big"})
    server.files["outer.zip"] = outer
    files = [
        RemoteFile(
            server.url("outer.zip"),
            len(outer),
            hashlib.sha256(outer).hexdigest(),
            unpack=True,
            keep=["ann/p.*"],
            nested=["ann/p.zip"],
        ),
        RemoteFile(server.url("file.bin"), to="more/file.bin"),
    ]
    return RemoteDataset("set", "A set", "free for all", "https://example.org", "home", files)


def test_get_a_data_set(server, dataset, tmp_path):
    said = []
    assert not is_here(dataset, tmp_path)
    assert fetch_dataset(dataset, tmp_path, said.append) == tmp_path / "home"
    assert is_here(dataset, tmp_path)
    assert names(tmp_path) == [
        "archives/outer.zip",
        "archives/outer.zip.unpacked",
        "home/ann/p.json",
        "home/ann/panoptic/1.png",
        "home/more/file.bin",
        "home/more/file.bin.sha256",
    ]
    assert "Licence: free for all" in said[0]
    assert len(said) == 2
    assert "no published sha256" in said[1]
    assert SHA256 in said[1]
    assert (tmp_path / "home/more/file.bin.sha256").read_text() == f"{SHA256}  file.bin\n"


def test_what_is_there_is_not_fetched_again(server, dataset, tmp_path):
    fetch_dataset(dataset, tmp_path, lambda _: None)
    (tmp_path / "archives" / "outer.zip").unlink()  # as the user may, to save room
    said = []
    fetch_dataset(dataset, tmp_path, said.append)
    assert len(server.asked) == 2
    assert len(said) == 1
    (tmp_path / "home/ann/panoptic/1.png").unlink()
    assert not is_here(dataset, tmp_path)
    fetch_dataset(dataset, tmp_path, said.append)
    assert (tmp_path / "home/ann/panoptic/1.png").read_bytes() == b"png"


def test_a_recorded_hash_is_held_against_later_downloads(server, dataset, tmp_path):
    fetch_dataset(dataset, tmp_path, lambda _: None)
    (tmp_path / "home/more/file.bin").unlink()
    server.files["file.bin"] = CONTENT[::-1]
    with pytest.raises(LabkitError, match=r"earlier download, from .*file\.bin\.sha256"):
        fetch_dataset(dataset, tmp_path, lambda _: None)
    assert not (tmp_path / "home/more/file.bin").exists()


def test_a_web_page_in_place_of_an_archive(server, tmp_path):
    server.files["set.zip"] = b"<html>log in</html>"
    files = [RemoteFile(server.url("set.zip"), unpack=True)]
    wanted = RemoteDataset("set", "A set", "free", "https://example.org", "home", files)
    with pytest.raises(LabkitError, match="neither a zip nor a tar"):
        fetch_dataset(wanted, tmp_path, lambda _: None)
    assert names(tmp_path) == []
    server.files["set.zip"] = zipped({"a": b"1"})
    fetch_dataset(wanted, tmp_path, lambda _: None)
    assert (tmp_path / "home" / "a").read_bytes() == b"1"


def test_the_catalogue():
    sets = catalogue()
    assert {"coco-val2017", "coco-panoptic", "coco-val2017-100", "penn-fudan"} < set(sets)
    for dataset in sets.values():
        assert dataset.licence
        for file in dataset.files:
            assert file.url.startswith("http")
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.source or (file.sha256 is None and file.size is None)


@pytest.mark.skipif("LABKIT_DATA" not in os.environ, reason="needs coco_panoptic_sample")
def test_the_hashes_of_the_sample_are_those_of_its_files():
    sample = catalogue()["coco-panoptic-sample"]
    folder = Path(os.environ["LABKIT_DATA"]) / sample.folder
    for file in sample.files:
        content = (folder / file.to).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a\n", "datasets.toml is not valid TOML: "),
        ('[a]\ntitle="t"\nlicence="l"\nhomepage="h"\nfolder="f"\n', r"\[a\]: 'files'"),
        ('[a]\nfiles=[{url="u", hash="h"}]\n', r"\[a\]: .*'hash'"),
        (
            '[a]\ntitle="t"\nlicence="l"\nhomepage="h"\nfolder="f"\nfiles=[{url="u"}]\n',
            'needs either "unpack" or "to"',
        ),
    ],
)
def test_a_wrong_catalogue_is_refused(tmp_path, text, message):
    path = tmp_path / "datasets.toml"
    path.write_text(text)
    with pytest.raises(LabkitError, match=message):
        catalogue(path)


def test_the_commands(server, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalog, "catalogue", lambda: {"set": dataset})
    data_command.get("set", tmp_path)
    assert f"set is in {tmp_path / 'home'}" in capsys.readouterr().out
    data_command.list_(tmp_path)
    said = capsys.readouterr().out
    assert "A set" in said
    assert "yes" in said
    with pytest.raises(LabkitError, match="no data set 'coco'; there are: set"):
        data_command.get("coco", tmp_path)


def test_the_command_line(tmp_path):
    said = labkit("data", "list", "--dir", tmp_path)
    assert said.returncode == 0
    assert "penn-fudan" in said.stdout
    wrong = labkit("data", "get", "nothing")
    assert wrong.returncode == 1
    assert "no data set 'nothing'; there are: coco-val2017" in wrong.stderr.replace("\n", " ")
    assert "Traceback" not in wrong.stderr
