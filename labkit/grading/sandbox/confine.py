"""The command that runs a kernel in confinement.

With bubblewrap the kernel gets its own users, processes, network and file system. It sees, all
read-only, the system's libraries, the Python environment, labkit without `labkit/grading`, the
weights shipped with labkit, and the data of the assignment. It writes to memory only, except into
the folder of its sockets, whose size is limited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from labkit.grading.sandbox.levels import STRONG, Level
from labkit.system.cpu_cores import available_cores
from labkit.system.paths import DATA, PACKAGE

NOBODY = 65534  # the user inside, and outside when the grader is root
SCRATCH = Path("/scratch")
PROCESSES = 64  # also threads
FILE_BYTES = 256_000_000
LEASH = [sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py"))]
"""Before the command that confines a kernel: it ends with the pipe on its standard input."""
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Only root may enter folders such as /root, but bubblewrap runs as a user without rights. Root
# therefore mounts what it needs under other names, in a separate mount namespace.
STAGE = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'


@dataclass(frozen=True)
class Confinement:
    """How a kernel is confined.

    Attributes:
        level: the level of isolation.
        memory_mb: the memory limit; here it determines the sizes of file systems in memory.
        seconds: the limit of CPU time of each process; deadlines are in wall-clock time.
        data: files and folders that it may read in addition to what every kernel may read.
    """

    level: Level
    memory_mb: int = 4096
    seconds: float = 600
    data: tuple[Path, ...] = ()


def make_folder() -> Path:
    """Make the folder through which the grader and a sandbox communicate.

    The sandbox writes to ``run``, which holds the connection file and the sockets; it can only
    read ``ask``, which holds requests.
    """
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="labkit-", dir=base if len(base) < 60 else "/tmp"))
    folder.chmod(0o711)
    (folder / "run").mkdir(mode=0o700)
    (folder / "ask").mkdir(mode=0o755)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove the folder with ``rm``, which handles folders of any depth."""
    subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)


def confine_command(command: list[str], folder: Path, confinement: Confinement) -> list[str]:
    """Return the command that runs `command` in confinement.

    `folder` comes from :func:`make_folder`; its owner becomes the user of the sandbox.
    """
    run = folder / "run"
    limits = [
        "prlimit",
        f"--cpu={int(confinement.seconds * available_cores()) + 10}",
        f"--fsize={FILE_BYTES}",
        "--core=0",
    ]
    root = os.geteuid() == 0
    other_user = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--no-new-privs",
    ]
    if root and confinement.level is not Level.PROCESS_ONLY:
        for path in (run, *run.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    if confinement.level in STRONG:
        shown = _readable(confinement)
        stage, binds = _staged(shown, folder) if root else ([], shown)
        inside = [*limits, f"--nproc={PROCESSES}", *command]
        # Found before the staging: a staged path does not show what is mounted there.
        hidden = _grading_folders(shown)
        bubblewrap = [*_bubblewrap(binds, hidden, folder, confinement), "--", *inside]
        return [*stage, *other_user, *bubblewrap] if root else bubblewrap
    variables = environment(run / "scratch", run / "scratch")
    (run / "scratch").mkdir(exist_ok=True)
    confined = ["env", "-i", "--chdir", str(run / "scratch")]
    confined += [*(f"{name}={value}" for name, value in variables.items()), *limits]
    if confinement.level is Level.LANDLOCK:
        if root:
            os.chown(run / "scratch", NOBODY, NOBODY)
            confined = [*other_user, *confined]
        listed, readable = _landlock_paths(confinement)
        readable.append(str(folder / "ask"))
        rules = json.dumps({"list": listed, "read": readable, "write": [str(run)]})
        script = str(Path(__file__).with_name("landlock.py"))
        confined += [sys.executable, "-I", "-S", script, rules]
    return [*confined, *command]


def environment(home: Path, temporary: Path) -> dict[str, str]:
    """Return the complete environment of a kernel; of the grader's only the numbers of threads."""
    threads = {name: os.environ.get(name, "1") for name in THREADS}
    return {
        "HOME": str(home),
        "USER": "student",
        "TMPDIR": str(temporary),
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        **threads,
    }


def try_level(level: Level, seconds: float) -> str:
    """Run an empty program at a level; return an error message, empty on success."""
    folder = make_folder()
    reading_end, writing_end = os.pipe()
    try:
        command = confine_command(
            [sys.executable, "-I", "-S", "-c", "pass"], folder, Confinement(level)
        )
        done = subprocess.run(
            [*LEASH, *command],
            stdin=reading_end,
            env=OUTER_ENVIRONMENT,
            cwd="/",
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        os.close(reading_end)
        os.close(writing_end)
        remove_folder(folder)
    text = done.stderr.decode(errors="replace").strip()
    return (text.splitlines() or ["no reason given"])[-1][:300] if done.returncode else ""


OUTER_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""The environment of bubblewrap itself, which a submission can read in /proc/1/environ."""


def _bubblewrap(
    binds: list[tuple[Path, Path]], hidden: list[str], folder: Path, confinement: Confinement
) -> list[str]:
    run, asked = str(folder / "run"), str(folder / "ask")
    size = confinement.memory_mb * 1_000_000
    command = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns"]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL"]
    if confinement.level is Level.NAMESPACES:
        command += ["--proc", "/proc"]
    command += ["--dev", "/dev"]
    for name, share in (("/tmp", 8), ("/dev/shm", 2), (str(SCRATCH), 4)):
        command += ["--size", str(size // share), "--tmpfs", name]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        place = Path("/", name)
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            command += ["--ro-bind", str(place), str(place)]
    for name in ETC:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for source, target in binds:
        command += ["--ro-bind", str(source), str(target)]
    for path in hidden:
        command += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    command += ["--bind", run, run, "--ro-bind", asked, asked]
    for name, value in environment(SCRATCH, Path("/tmp")).items():
        command += ["--setenv", name, value]
    # The file systems that bubblewrap makes for / and /dev have no size limit.
    return [*command, "--chdir", str(SCRATCH), "--remount-ro", "/dev", "--remount-ro", "/"]


def _readable(confinement: Confinement) -> list[tuple[Path, Path]]:
    """Return the readable paths and where to mount them, each parent before its children."""
    python = Path(sys.executable)
    wanted = {Path(sys.prefix), Path(sys.base_prefix)}
    while python.is_symlink():  # the python of a virtual environment, perhaps twice
        python = python.parent / python.readlink()
        wanted.add(python.parent.parent)
    shown = {path: path.resolve() for path in wanted if not _within(path, Path("/usr"))}
    shown |= {path: path for path in list(shown.values())}
    shown[PACKAGE] = PACKAGE
    checkpoints = DATA / "checkpoints"
    for path in (*([checkpoints] if checkpoints.is_dir() else []), *confinement.data):
        shown[path] = path.resolve()
    return [(shown[target], target) for target in sorted(shown)]


def _grading_folders(binds: list[tuple[Path, Path]]) -> list[str]:
    """Return every path at which `labkit/grading` would be visible."""
    inner = PACKAGE / "grading"
    return [
        str(target / inner.relative_to(source.resolve()))
        for source, target in binds
        if inner.is_relative_to(source.resolve())
    ]


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)


def _staged(
    binds: list[tuple[Path, Path]], folder: Path
) -> tuple[list[str], list[tuple[Path, Path]]]:
    mounts, staged = list[str](), list[tuple[Path, Path]]()
    for number, (source, target) in enumerate(binds):
        if _open_to_all(source):
            staged.append((source, target))
            continue
        (folder / "stage").mkdir(exist_ok=True)
        place = folder / "stage" / str(number)
        place.mkdir() if source.is_dir() else place.touch()
        mounts += [str(source), str(place)]
        staged.append((place, target))
    if not mounts:
        return [], binds
    start = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", STAGE, "sh"]
    return [*start, *mounts, "--"], staged


def _open_to_all(path: Path) -> bool:
    needed = 0o005 if path.is_dir() else 0o004
    inside = all(parent.stat().st_mode & 0o001 for parent in path.parents)
    return inside and path.stat().st_mode & needed == needed


def _landlock_paths(confinement: Confinement) -> tuple[list[str], list[str]]:
    """Return the folders whose entries may be listed, and the paths that may be read."""
    paths = [Path("/", name) for name in ("usr", "bin", "sbin", "lib", "lib64")]
    paths += [Path("/etc", name) for name in ETC]
    paths += [Path("/dev", name) for name in ("null", "zero", "full", "random", "urandom", "shm")]
    paths += [target for _, target in _readable(confinement)]
    listed, readable = [PACKAGE.parent], list[Path]()
    # Landlock cannot exclude a folder from its parent: its siblings are allowed one by one.
    while paths:
        path = paths.pop()
        if (PACKAGE / "grading").is_relative_to(path.resolve()):
            listed.append(path)
            paths += [part for part in path.iterdir() if part.resolve() != PACKAGE / "grading"]
        elif path.exists():
            readable.append(path)
    return [str(path) for path in listed], [str(path) for path in readable]
