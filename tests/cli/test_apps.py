"""`labkit app compare`: the comparison alone, served by Voilà."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from labkit.cli import apps
from labkit.errors import LabkitError


def test_without_voila_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "voila" else find(name, *a)
    )
    with pytest.raises(LabkitError, match="uv sync --extra apps") as caught:
        apps.compare()
    assert "labkit lab 4" in str(caught.value)


def test_the_cell_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a "b".png').write_bytes(b"")
    cell = apps.compare_cell(["upsnet_tiny", "run's"], Path('a "b".png'))
    calls: list[tuple[object, ...]] = []
    stand_in = "def Compare(*a, **k): calls.append((a, k, os.getcwd()))"
    exec(cell.replace("from labkit.widgets import Compare", stand_in), {"calls": calls})
    where = str(tmp_path)
    assert calls == [((["upsnet_tiny", "run's"],), {"image": 'a "b".png'}, where)]
    with pytest.raises(LabkitError, match=r"c\.png: image not found"):
        apps.compare_cell([], Path("c.png"))


def test_the_app_is_served() -> None:
    pytest.importorskip("voila", reason="Voilà is not installed; to enable: uv sync --extra apps")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "labkit", "app", "compare", "mask_rcnn_tiny"]
    process = subprocess.Popen(
        [*command, "--no-browser", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    giving_up = threading.Timer(180, process.kill)
    giving_up.start()
    assert process.stdout is not None
    try:
        address = None
        said = []
        for line in process.stdout:
            said.append(line)
            address = re.search(r"http://localhost:\d+/\?token=\w+", line)
            if address:
                break
        assert address is not None, "".join(said)
        with urllib.request.urlopen(address[0].partition("?")[0], timeout=60) as reply:
            assert "/login" in reply.url  # others on the machine do not know the token
        with urllib.request.urlopen(address[0], timeout=120) as reply:
            page = reply.read().decode()
        assert "application/vnd.jupyter.widget-view+json" in page
        assert "Traceback" not in page
    finally:
        giving_up.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()
