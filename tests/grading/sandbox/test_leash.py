"""Nothing of a sandbox outlives the grader, whenever and however the grader ends."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from labkit.grading.sandbox import isolation
from labkit.grading.sandbox.confine import LEASH
from labkit.grading.sandbox.levels import STRONG

GRADER = """
import subprocess, sys, time
leash = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep(500)
"""
KERNEL = """
import sys
from labkit.grading.authoring.probes import Limits
from labkit.grading.execution.kernel_client import KernelClient
from labkit.grading.sandbox import provisioner
from labkit.grading.sandbox.levels import Level
provisioner.OUTER_ENVIRONMENT["PATH"] = sys.argv[1] + ":" + provisioner.OUTER_ENVIRONMENT["PATH"]
with KernelClient(Limits(), Level.NAMESPACES):
    raise AssertionError("this is no kernel")
"""
# A process without a parent, in a session of its own, that ignores polite signals; and one more.
STUBBORN = """trap '' HUP TERM INT
(setsid sleep 471 &)
sleep 472
"""


def test_a_command_that_cares_for_no_signal_ends_with_the_grader():
    grader = started([sys.executable, "-c", GRADER, *LEASH, "sh", "-c", STUBBORN])
    kill_and_expect_nothing(grader, running(grader, "sleep 471", "sleep 472"))


@pytest.mark.skipif(isolation.probe().works[0] not in STRONG, reason="no bubblewrap here")
def test_bubblewrap_in_the_middle_of_its_start(tmp_path):
    # It has forked, and its inner half has not asked to be killed: it waits for a byte of a pipe.
    os.mkfifo(tmp_path / "pipe")
    bubblewrap = "bwrap --unshare-all --unshare-user --die-with-parent --ro-bind / / --block-fd 9"
    script = f"exec 9<>{tmp_path / 'pipe'}; exec {bubblewrap} -- sleep 473"
    grader = started([sys.executable, "-c", GRADER, *LEASH, "sh", "-c", script])
    kill_and_expect_nothing(grader, running(grader, "bwrap", "bwrap"))


def test_a_kernel_whose_bubblewrap_never_asks_to_be_killed():
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which the user of the sandbox cannot enter
    try:
        (folder / "bwrap").write_text(f"#!/bin/sh\n{STUBBORN}", encoding="utf-8")
        for path in (folder, folder / "bwrap"):
            path.chmod(0o755)
        grader = started([sys.executable, "-c", KERNEL, str(folder)])
        kill_and_expect_nothing(grader, running(grader, "sleep 471", "sleep 472"))
    finally:
        shutil.rmtree(folder)


def test_the_grader_is_gone_before_the_leash_begins():
    reading_end, writing_end = os.pipe()
    os.close(writing_end)
    begun = time.monotonic()
    done = subprocess.run([*LEASH, "sleep", "474"], stdin=reading_end, timeout=60, check=False)
    os.close(reading_end)
    assert done.returncode == 1
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -9 $$"], 128 + 9, ""),
        (["sh", "-c", "(sleep 60.475 &); echo told >&2; exit 3"], 3, "told\n"),
        (["sh", "-c", "read line; exit 4"], 4, ""),  # no input, and no waiting for it
        (["no-such-program"], 1, "no-such-program: No such file or directory\n"),
    ],
)
def test_the_end_of_the_command(command, status, message):
    leash = subprocess.Popen(
        [*LEASH, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert leash.stderr.read() == message  # also closed by what was left in the background
    assert leash.wait(60) == status
    leash.stdin.close()
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "60.475"]
    ]


def started(command):
    return psutil.Popen(command, stdout=subprocess.DEVNULL)


def running(grader, *wanted):
    """All descendants of the grader, once the wanted commands are among them."""
    deadline = time.monotonic() + 120
    while True:
        family = grader.children(recursive=True)
        lines = [" ".join(command_of(member)) for member in family]
        if all(sum(line.startswith(w) for line in lines) >= wanted.count(w) for w in wanted):
            return family
        assert time.monotonic() < deadline, lines
        assert grader.poll() is None
        time.sleep(0.05)


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill_and_expect_nothing(grader, family):
    grader.kill()
    grader.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    left = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert left == []
