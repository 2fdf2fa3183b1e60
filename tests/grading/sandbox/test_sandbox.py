"""Levels of isolation, the command that shuts a kernel in, and what is ended from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import labkit
from labkit.errors import LabkitError
from labkit.grading.authoring.probes import Limits
from labkit.grading.execution.kernel_client import KernelClient, SandboxEnded, StartFailed
from labkit.grading.sandbox import confine, isolation, limits, provisioner
from labkit.grading.sandbox.isolation import AvailableLevels, choose
from labkit.grading.sandbox.levels import STRONG, Level
from labkit.system.processes import kill_tree

CHECKOUT = Path(labkit.__file__).resolve().parents[1]
needs_namespaces = pytest.mark.skipif(
    isolation.probe().works[0] not in STRONG,
    reason=f"{next(iter(isolation.probe().reasons.values()), '')}; "
    "enable with: apt-get install bubblewrap",
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
SMALL = Limits(cell_seconds=20, total_seconds=60, memory_mb=800, output_mb=1, answer_mb=1)
LOOK = """
import json, os, socket
def can(action):
    try:
        action()
        return True
    except OSError:
        return False
def connect():
    socket.create_connection(("127.0.0.1", 9), 1)
def write_outside():
    path = CHECKOUT + "/labkit/written from outside"
    open(path, "w").close()
    os.remove(path)
import labkit
print(json.dumps({
    "outside": can(lambda: open(CHECKOUT + "/pyproject.toml")),
    "graders": can(lambda: open(CHECKOUT + "/labkit/grading/scoring/score.py")),
    "checkpoints": can(lambda: os.listdir(CHECKOUT + "/data/checkpoints")),
    "write": can(lambda: open("here", "w").write("x")),
    "write outside": can(write_outside),
    "kill": can(lambda: os.kill(OUTSIDE, 0)),
    "proc": os.path.exists("/proc/self"),
    "root": os.geteuid() == 0,
    "environment": sorted(os.environ),
}))
"""
ORDINARY = """
import json, os, sys
from labkit.grading.execution.kernel_client import KernelClient
from labkit.grading.sandbox.levels import Level
from labkit.grading.authoring.probes import Limits
code = sys.stdin.read().replace("OUTSIDE", str(os.getpid()))
with KernelClient(Limits(total_seconds=60, memory_mb=800), Level(sys.argv[1])) as kernel:
    found = kernel.execute(code, 30)
print(found.outputs[0].get("text") or found.outputs[0]["evalue"])
"""


def assert_gone(pids: list[int]) -> None:
    """Wait for what was killed to be gone; what nobody has collected yet counts as gone."""
    deadline = time.monotonic() + 20
    for pid in pids:
        while psutil.pid_exists(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)


def look(level: Level) -> dict:
    code = LOOK.replace("CHECKOUT", repr(str(CHECKOUT))).replace("OUTSIDE", str(os.getpid()))
    with KernelClient(SMALL, level) as kernel:
        found = kernel.execute(code, 20)
    assert found.status == "ok", found
    return json.loads(found.outputs[0]["text"])


@needs_namespaces
@pytest.mark.parametrize("level", STRONG)
def test_namespaces_hide_everything_else(level):
    seen = look(level)
    assert seen == {
        "outside": False,
        "graders": False,
        "checkpoints": True,
        "write": True,
        "write outside": False,
        "kill": False,
        "proc": level is Level.NAMESPACES,
        "root": False,
        "environment": seen["environment"],
    }
    names = set(seen["environment"])
    assert not {name for name in names if name.startswith(("JPY", "LABKIT", "PYTEST", "SSH"))}


def test_process_only_hides_nothing():
    seen = look(Level.PROCESS_ONLY)
    assert seen["outside"]
    assert seen["write outside"]
    assert seen["kill"]
    assert "JPY_PARENT_PID" not in seen["environment"]


@as_root
@needs_namespaces
@pytest.mark.parametrize("level", [Level.NAMESPACES, Level.LANDLOCK])
def test_an_ordinary_user(level, tmp_path):
    if level is Level.LANDLOCK and not isolation.landlock_version():
        pytest.skip("no Landlock: boot Linux 5.13 or newer with lsm=landlock")
    code = LOOK.replace("CHECKOUT", repr(str(CHECKOUT)))
    # What root alone can reach (a Python of pyenv's or uv's in /root) is made reachable for the
    # test, in a mount namespace of its own.
    needed = {Path(sys.base_prefix), Path(sys.prefix), CHECKOUT}
    aside, empty, back, stage = [], {}, [], tmp_path / "stage"
    for number, path in enumerate(sorted(needed)):
        if not confine._open_to_all(path):
            shut = next(p for p in reversed(path.parents) if not p.stat().st_mode & 1)
            (stage / str(number)).mkdir(parents=True)
            aside.append(f"mount --bind {path} {stage / str(number)}")
            empty[f"mount -t tmpfs -o mode=755 none {shut}"] = None
            back += [f"mkdir -p {path}", f"mount --bind {stage / str(number)} {path}"]
    script = [*aside, *empty, *back]
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    for folder in (home, *tmp_path.parents):
        if "pytest" in folder.name or folder.name.startswith("popen-"):  # of a worker of xdist
            folder.chmod(0o755)
    become = "exec setpriv --reuid=12345 --regid=12345 --clear-groups"
    program = tmp_path / "ordinary.py"
    program.write_text(ORDINARY)
    command = f"{become} {sys.executable} {program} '{level}'"
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", "\n".join([*script, command])],
        input=code,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": "/tmp"},
        timeout=120,
        check=False,
    )
    if script and "unshare failed" in done.stderr:
        pytest.skip("mounting is not allowed in this container: run it with --privileged")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), done.stdout
    seen = json.loads(done.stdout)
    expected = {"outside": False, "graders": False, "checkpoints": True, "write": True}
    assert {name: seen[name] for name in expected} == expected
    assert seen["write outside"] is seen["root"] is False
    # Landlock shuts signals in from its sixth version on.
    assert seen["kill"] is (level is Level.LANDLOCK and isolation.landlock_version() < 6)


def test_levels_must_be_asked_for(monkeypatch):
    weak = AvailableLevels(
        (Level.LANDLOCK, Level.PROCESS_ONLY), {Level.NAMESPACES: "no bubblewrap"}
    )
    monkeypatch.setattr(isolation, "probe", lambda: weak)
    with pytest.raises(LabkitError, match=r"no bubblewrap.*--isolation landlock or --allow-unsand"):
        choose()
    assert choose("landlock") is Level.LANDLOCK
    assert choose(allow_unsandboxed=True) is Level.LANDLOCK
    with pytest.raises(LabkitError, match="add --allow-unsandboxed"):
        choose("process only")
    assert choose("process only", allow_unsandboxed=True) is Level.PROCESS_ONLY
    with pytest.raises(LabkitError, match="'namespaces' does not work: no bubblewrap"):
        choose("namespaces")
    with pytest.raises(LabkitError, match="there is no isolation 'jail'; the levels are: names"):
        choose("jail")


def test_missing_programs_are_named(monkeypatch):
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    found = isolation.probe.__wrapped__()
    assert found.works == ()
    assert "apt-get install bubblewrap" in found.reasons[Level.NAMESPACES]
    assert "apt-get install util-linux" in found.reasons[Level.PROCESS_ONLY]


def test_advice_where_user_namespaces_are_denied(monkeypatch, tmp_path):
    switch = tmp_path / "apparmor"
    switch.write_text("1\n")
    monkeypatch.setattr(isolation, "APPARMOR", str(switch))
    advice = isolation._advice(Level.NAMESPACES)
    assert "sysctl kernel.apparmor_restrict_unprivileged_userns=0" in advice


def test_the_command_of_the_wall(monkeypatch):
    folder = confine.make_folder()
    try:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        command = confine.confine_command(
            ["kernel"], folder, confine.Confinement(Level.NAMESPACES, memory_mb=800)
        )
    finally:
        confine.remove_folder(folder)
    assert command[0] == "bwrap"
    text = " ".join(command)
    for needed in (
        "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --clearenv",
        "--uid 65534 --gid 65534 --cap-drop ALL",
        "--size 200000000 --tmpfs /scratch",
        f"--tmpfs {confine.PACKAGE}/grading --remount-ro {confine.PACKAGE}/grading",
        "--remount-ro /dev --remount-ro / -- prlimit",
    ):
        assert needed in text
    assert "--nproc=64 kernel" in text
    assert "--ro-bind / " not in text
    assert f"--ro-bind {CHECKOUT} " not in text


def test_every_layout_of_python_is_shown_whole(monkeypatch, tmp_path):
    real, alias = tmp_path / "uv" / "cpython-3.12.4", tmp_path / "uv" / "cpython-3.12"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "python3.12").touch()
    alias.symlink_to(real)
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python3").symlink_to(alias / "bin" / "python3.12")
    (environment / "bin" / "python").symlink_to("python3")
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setattr(sys, "base_prefix", str(real))
    shown = {target: source for source, target in confine._readable(confine.Confinement(STRONG[0]))}
    assert shown[alias] == shown[real] == real
    assert shown[environment] == environment
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (environment / "bin" / "python3").unlink()
    (environment / "bin" / "python3").symlink_to("/usr/bin/python3")
    shown = {target for _, target in confine._readable(confine.Confinement(STRONG[0]))}
    assert environment in shown
    assert not {path for path in shown if path.is_relative_to("/usr")}


def test_labkit_inside_the_environment_is_hidden_by_every_name(monkeypatch, tmp_path):
    real = tmp_path / "real"
    package = real / "lib" / "labkit"
    (package / "grading").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(real)
    monkeypatch.setattr(confine, "PACKAGE", package)
    binds = [(real, tmp_path / "alias"), (real, real), (package, package)]
    hidden = confine._grading_folders(binds)
    assert hidden == [
        str(tmp_path / "alias" / "lib" / "labkit" / "grading"),
        str(package / "grading"),
        str(package / "grading"),
    ]


def test_a_kernel_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(
        provisioner, "confine_command", lambda *_: ["sh", "-c", "echo no such wall >&2; exit 3"]
    )
    with (
        pytest.raises(StartFailed, match="did not start: no such wall"),
        KernelClient(SMALL, STRONG[0]),
    ):
        pass


@needs_namespaces
def test_data_can_be_read_and_nothing_is_left(tmp_path, monkeypatch):
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.mkdir()
    (data / "x").write_text("42")
    with KernelClient(SMALL, None, (data,)) as kernel:
        found = kernel.execute(
            f"import os; print(open('{data}/x').read(), os.listdir('{tmp_path}'))", 20
        )
        assert found.outputs[0]["text"] == "42 ['data']\n"
        found = kernel.execute(f"open('{data}/y', 'w')", 20)
        assert found.ename == "OSError"
        family = limits.process_tree(kernel.manager.provisioner.process.pid)
        assert len(family) >= 2
    assert_gone(family)
    assert not kernel.manager.provisioner.folder.exists()


def test_processes_are_counted_with_what_they_share():
    program = (
        "import mmap, os, time\n"
        "shared = mmap.mmap(-1, 60_000_000)\n"
        "shared.write(b'x' * 60_000_000)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        sum(shared[::4096])\n"
        "        time.sleep(60)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(1)
        members = limits.process_tree(process.pid)
        assert len(members) == 4
        assert limits.exceeds(members, limits.resident_memory, 150e6)
        assert limits.exceeds(members, limits.proportional_memory, 50e6)
        assert not limits.exceeds(members, limits.proportional_memory, 120e6)
    finally:
        kill_tree(process)
        process.stdout.close()
    assert_gone(members)


def test_sizes_of_folders(tmp_path):
    assert limits.folder_size(tmp_path, 10**9) == 0
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "loop").symlink_to(tmp_path)
    assert 100_000 <= limits.folder_size(tmp_path, 10**9) < 150_000
    assert limits.folder_size(tmp_path / "gone", 10**9) == 0


@needs_namespaces
def test_time_over_all_ends_the_sandbox():
    with KernelClient(Limits(total_seconds=2, memory_mb=800), None) as kernel:
        began = time.monotonic()
        with pytest.raises(SandboxEnded, match="everything together took more than 2 s"):
            kernel.execute("import time; time.sleep(600)", 300)
        assert time.monotonic() - began < 60
