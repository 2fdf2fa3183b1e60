"""Two commands at the same folder: the second one is refused, and a dead one refuses nobody."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from labkit.cli.predict import predict as predict_command
from labkit.cli.train import train as train_command
from labkit.errors import LabkitError
from labkit.system.folder_lock import LOCK, locked
from labkit.workbook.run_workbook import RunRequest, run_workbook

HOLDER = """
import os, sys, time
from pathlib import Path
from labkit.system.folder_lock import locked
with locked(Path(sys.argv[1]), "labkit grade"):
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.close(1)  # the test waits for the end of the output
        time.sleep(1)
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds the lock of tmp_path."""
    started = []

    def start(mode="alone"):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), mode]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_by_a_message_with_folder_process_and_remedy(tmp_path, holder):
    process = holder()
    message = (
        f"{tmp_path}: labkit grade (process {process.pid}) is writing there. Wait until it ends,"
        " stop it, or name another folder with --out"
    )
    start = time.monotonic()
    with pytest.raises(LabkitError, match=f"^{re.escape(message)}$"), locked(tmp_path, "x"):
        pass
    assert time.monotonic() - start < 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path, "x") as descriptor:
        assert isinstance(descriptor, int)
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_the_children_of_a_killed_process_are_waited_for(tmp_path, holder, monkeypatch):
    process = holder("fork")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr("labkit.system.folder_lock.GONE", 0.0)
        with (
            pytest.raises(LabkitError, match="a process started by labkit grade"),
            locked(tmp_path, "x"),
        ):
            pass
    with locked(tmp_path, "x"):
        pass


def test_one_that_is_alive_is_waited_for_on_request(tmp_path):
    taken, order = threading.Event(), []

    def hold():
        with locked(tmp_path, "first"):
            taken.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with locked(tmp_path, "second", wait=20):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_the_holder_of_another_machine_is_named_and_a_damaged_note_is_no_obstacle(tmp_path):
    with locked(tmp_path, "x"):
        for note, message in (
            ('{"command": "labkit train", "process": 1, "machine": "far"}', "process 1 on far"),
            ("half a no", f"{tmp_path}: another process is writing there"),
            ("[]", f"{tmp_path}: another process is writing there"),
        ):
            (tmp_path / LOCK).write_text(note)
            with pytest.raises(LabkitError, match=message), locked(tmp_path, "y"):
                pass
    (tmp_path / LOCK).write_text("half a no")
    with locked(tmp_path, "y"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(LabkitError, match="file"), locked(tmp_path / "file", "y"):
        pass


def test_commands_that_write_a_folder_respect_the_lock(tmp_path):
    with locked(tmp_path, "labkit grade"):
        for command in (
            lambda: train_command("fcn32_tiny", data="shapes", out=tmp_path, steps=1),
            lambda: predict_command(model="fcn32_tiny", data="shapes", panoptic=True, out=tmp_path),
            lambda: run_workbook(RunRequest(notebooks=["1"], out=tmp_path), Console(quiet=True)),
        ):
            with pytest.raises(LabkitError, match=r"labkit grade \(process \d+\) is writing there"):
                command()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
