"""Process trees are killed as a whole, daemons included."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from labkit.system.processes import descendants, kill_tree

# A child, and a grandchild in a session of its own that ignores polite signals.
TREE = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:] == ["daemon"]:
    print("ready", flush=True)
    time.sleep(600)
else:
    subprocess.Popen([sys.executable, __file__, "daemon"], start_new_session=True)
    time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path):
    script = tmp_path / "tree.py"
    script.write_text(TREE)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    kill_tree(process)
    process.stdout.close()


def gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_process_and_its_descendants_are_killed(tree):
    members = descendants(tree.pid)
    assert len(members) == 1
    kill_tree(tree)
    assert tree.returncode == -9
    assert gone(members)


def test_known_orphans_are_killed_too(tree):
    known = descendants(tree.pid)
    tree.kill()
    tree.wait()
    assert descendants(tree.pid) == set()
    assert all(process.is_running() for process in known)
    kill_tree(tree, known)
    assert gone(known)


def test_a_finished_process_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    began = time.monotonic()
    kill_tree(process)
    assert time.monotonic() - began < 1
    assert process.returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_adopted_daemons_are_killed_and_reaped(tmp_path):
    # The daemon's parent ends at once: only the adopting process can still find it.
    program = """
import subprocess, sys
from labkit.system.processes import adopt_orphans, descendants, kill_descendants
import os
adopt_orphans()
daemon = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"
subprocess.run([sys.executable, "-c", daemon], check=True)
members = descendants(os.getpid())
print(len(members))
kill_descendants()
print(len(descendants(os.getpid())), any(member.is_running() for member in members))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "0", "False"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_process_can_die_with_its_parent():
    child = (
        "import time; from labkit.system.processes import die_with_parent; die_with_parent();"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        members = descendants(process.pid)
        process.kill()
        process.wait()
        assert len(members) == 1
        assert gone(members)
