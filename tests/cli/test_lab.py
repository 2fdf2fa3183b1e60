"""`labkit lab` really serves the workbook, or a copy of it, with its apps."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from labkit.cli.lab import check_widgets, lab_arguments
from labkit.errors import LabkitError
from labkit.workbook.copy_workbook import copy_workbook, writable
from labkit.workbook.notebook_sources import sync


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(arguments: list[str], folder: Path, notebook: str, page_expected: str) -> str:
    """Start `labkit lab`, see that it serves a notebook at that page, stop it; what it printed."""
    command = [sys.executable, "-m", "labkit", "lab", *arguments, "--no-browser", "--allow-root"]
    process = subprocess.Popen(
        [*command, "--port", str(free_port())],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    giving_up = threading.Timer(90, process.kill)
    giving_up.start()
    said = []
    try:
        assert process.stdout is not None
        address = None
        for line in process.stdout:
            said.append(line)
            address = re.search(r"(http://(?:127\.0\.0\.1|localhost):\d+)(\S*)\?token=(\w+)", line)
            if address:
                break
        assert address is not None, "JupyterLab printed no address"
        server, page, token = address.groups()
        assert page == page_expected
        url = f"{server}/api/contents/{notebook}?content=0&token={token}"
        for _ in range(50):
            try:
                with urllib.request.urlopen(url, timeout=10) as reply:
                    assert json.load(reply)["type"] == "notebook"
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("JupyterLab did not answer")
    finally:
        giving_up.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()
    return "".join(said)


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """A workbook of one notebook, with an assignment."""
    root = tmp_path / "workbook"
    (root / "notebooks" / "src").mkdir(parents=True)
    (root / "notebooks" / "src" / "01_first.py").write_text("# %%\n1 + 1\n")
    (root / "notebooks" / "diagrams").mkdir()
    (root / "notebooks" / "diagrams" / "network.svg").write_text("<svg/>")
    (root / "assignments" / "a1").mkdir(parents=True)
    (root / "assignments" / "a1" / "a1.ipynb").write_text("{}")
    (root / "notebooks" / "__pycache__").mkdir()
    (root / "notebooks" / "__pycache__" / "x.pyc").write_text("")
    (root / "docs").mkdir()
    (root / "docs" / "glossary.md").write_text("| **anchor** |")
    (root / "docs" / "commands.md").write_text("not copied")
    sync(root)
    return root


def test_lab_serves_the_notebook(workbook: Path) -> None:
    said = serve(["1"], workbook, "notebooks/01_first.ipynb", "/lab/tree/notebooks/01_first.ipynb")
    assert "tornado_settings" not in said  # how it is set is no business of the reader's


def test_lab_serves_a_copy(workbook: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    (workbook / "assignments" / "a1" / "source.py").write_text("")
    assignment = "assignments/a1/a1.ipynb"
    said = serve(["a1", "--copy", str(copy)], workbook, assignment, f"/lab/tree/{assignment}")
    assert f"opening the copy in {copy}" in said
    assert (copy / "notebooks" / "01_first.ipynb").is_file()
    assert not list(copy.rglob("source.py"))


def test_a_copy_keeps_what_the_reader_did(workbook: Path, tmp_path: Path) -> None:
    copy = copy_workbook(workbook, tmp_path / "mine")
    files = sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file())
    assert files == [
        "assignments/a1/a1.ipynb",
        "docs/glossary.md",
        "notebooks/01_first.ipynb",
        "notebooks/diagrams/network.svg",
        "notebooks/src/01_first.py",
        "start.md",
    ]
    (copy / "notebooks" / "01_first.ipynb").write_text("my work")
    (copy / "assignments" / "a1" / "a1.ipynb").unlink()
    copy_workbook(workbook, copy)
    assert (copy / "notebooks" / "01_first.ipynb").read_text() == "my work"
    assert (copy / "assignments" / "a1" / "a1.ipynb").is_file()


def test_a_copy_inside_the_workbook(workbook: Path) -> None:
    for inside in (workbook, workbook / "notebooks" / "mine"):
        with pytest.raises(LabkitError, match="is inside the workbook itself"):
            copy_workbook(workbook, inside)


def test_a_folder_that_cannot_be_written(workbook: Path, tmp_path: Path) -> None:
    assert writable(workbook)
    assert not writable(tmp_path / "not there")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LabkitError, match="cannot be written"):
        copy_workbook(workbook, file)


def test_without_the_widgets_extension(tmp_path: Path) -> None:
    manager = tmp_path / "@jupyter-widgets" / "jupyterlab-manager"
    manager.mkdir(parents=True)
    (manager / "package.json").write_text("{}")
    with pytest.raises(LabkitError, match=r"anywidget is not installed.*--reinstall-package anywi"):
        check_widgets([tmp_path])
    (tmp_path / "anywidget").mkdir()
    (tmp_path / "anywidget" / "package.json").write_text("{}")
    check_widgets([tmp_path / "other", tmp_path])


def test_notebook_outside_the_project(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="open a notebook of the workbook"):
        lab_arguments(tmp_path / "a", tmp_path / "b", browser=False, port=1, allow_root=False)
