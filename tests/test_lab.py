"""`labkit lab` really serves the workbook."""

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

from labkit.cli.lab import lab_arguments
from labkit.errors import LabkitError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_lab_serves_the_notebook(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    (folder / "01_first.py").write_text("# %%\n1 + 1\n")
    command = [sys.executable, "-m", "labkit"]
    subprocess.run([*command, "notebooks", "sync"], cwd=tmp_path, check=True)
    process = subprocess.Popen(
        [*command, "lab", "1", "--no-browser", "--allow-root", "--port", str(free_port())],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    giving_up = threading.Timer(90, process.kill)
    giving_up.start()
    try:
        assert process.stderr is not None
        address = None
        for line in process.stderr:
            address = re.search(r"(http://(?:127\.0\.0\.1|localhost):\d+)(\S*)\?token=(\w+)", line)
            if address:
                break
        assert address is not None, "JupyterLab printed no address"
        server, page, token = address.groups()
        assert page == "/lab/tree/notebooks/01_first.ipynb"
        url = f"{server}/api/contents/notebooks/01_first.ipynb?content=0&token={token}"
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


def test_notebook_outside_the_project(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="open a notebook of the workbook"):
        lab_arguments(tmp_path / "a", tmp_path / "b", browser=False, port=1, allow_root=False)
