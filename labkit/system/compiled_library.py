"""Compilation of a source of ``labkit/csrc`` for this machine, once, into a cache.

The library's name carries a hash of everything it depends on, so another CPU, another compiler or
an edited source makes a new library and never loads an old one.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from labkit.errors import LabkitError
from labkit.system.paths import PACKAGE

CSRC = PACKAGE / "csrc"
HOST_COMPILERS = ("c++", "g++", "clang++")
HOST_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden")
LIBRARY, DIGEST = "library.so", "library.sha256"


class BuildError(LabkitError):
    """Failed compilation; ``log`` is the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Built:
    """A compiled library on disk; ``seconds`` is 0 if it was in the cache."""

    path: Path
    seconds: float
    note: str = ""


def cache_folder() -> Path:
    """Cache folder: ``LABKIT_CACHE``, or the user's cache folder."""
    named = os.environ.get("LABKIT_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("labkit", appauthor=False)


def build_library(name: str, what: str, key: str, commands: Callable[[], list[list[str]]]) -> Built:
    """Compile a library, or take it from the cache.

    Several processes may build at once: each works in a folder of its own, and the finished folder
    takes its name in one step. A damaged library is made again. Where the cache cannot be written,
    the library is made for this process alone, which ``note`` says.

    Args:
        name: beginning of the folder's name in the cache.
        what: the name in messages.
        key: of :func:`library_key`.
        commands: makes the commands, which write ``LIBRARY`` into the folder they run in.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    folder = cache_folder()
    home = folder / f"{name}-{key}"
    if _intact(home):
        return Built(home / LIBRARY, 0.0)
    to_run = commands()
    print(f"labkit: compiling {what}, once: {home}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    note = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    except OSError as error:
        note = f"{folder} cannot be written ({error.strerror}); built for this process alone"
        home = work = Path(tempfile.mkdtemp(prefix="labkit-"))
        atexit.register(shutil.rmtree, work, ignore_errors=True)
    try:
        for command in to_run:
            run_compiler(command, work)
        if work != home:
            (work / DIGEST).write_text(_digest(work / LIBRARY))
            _publish(work, home)
    except OSError as error:
        raise BuildError(f"{home}: cannot be written: {error.strerror}") from error
    finally:
        if work != home:
            shutil.rmtree(work, ignore_errors=True)
    return Built(home / LIBRARY, time.perf_counter() - start, note)


def _intact(home: Path) -> bool:
    """Whether a library exists and is complete: loading a truncated one would end the process."""
    try:
        return (home / DIGEST).read_text() == _digest(home / LIBRARY)
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _publish(work: Path, home: Path) -> None:
    """Move a finished folder to its final name, unless another process did so first."""
    try:
        work.rename(home)
    except OSError:
        if not _intact(home):  # a damaged one is in the way
            shutil.rmtree(home)
            work.rename(home)


def library_key(sources: Iterable[Path], parts: Iterable[str] = ()) -> str:
    """Hash of everything that a library depends on: sources, compiler, this CPU, other parts."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    machine = [platform.system(), platform.machine(), os.environ.get("CXX", "")]
    machine += [*HOST_FLAGS, cpu_flag(), _cpu_features()]
    digest.update("\0".join([*parts, *machine]).encode())
    return digest.hexdigest()[:16]


def cpu_flag() -> str:
    """Compiler flag for all instructions of this CPU."""
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _cpu_features() -> str:
    """Features of this CPU, because different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def host_compiler() -> list[str]:
    """Command of the C++ compiler: ``CXX``, or the first that is found.

    Raises:
        BuildError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [[name] for name in HOST_COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    wanted = f"CXX names {named[0]}, which is not there" if named else "no C++ compiler was found"
    raise BuildError(f"{wanted}; `labkit doctor` names the command that installs one")


def run_compiler(command: list[str], folder: Path) -> None:
    """Run a compiler in a folder.

    Raises:
        BuildError: it cannot be run, or failed.
    """
    # Without this, hipcc on a machine that also has nvcc compiles for NVIDIA.
    environment = {**os.environ, "HIP_PLATFORM": "amd"}
    try:
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    if result.returncode != 0:
        log = f"{shlex.join(command)}\n{result.stdout}{result.stderr}"
        lines = [line for line in log.splitlines()[1:] if "error" in line.lower()]
        why = lines[0].strip() if lines else f"exit status {result.returncode}"
        raise BuildError(f"{command[0]} failed: {why}", log)
