"""Compilation of the kernels in ``labkit/csrc`` for this machine, once, into a cache.

The sources use PyTorch's stable C++ interface (``torch/csrc/stable``, torch 2.10 and newer), which
needs neither Python's headers nor a build system: a compiler and one command are enough. The
library's name carries a hash of everything it depends on, so a new torch, another CPU or an edited
source makes a new library and never loads an old one.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
import torch

from labkit.errors import LabkitError
from labkit.system.paths import PACKAGE

Backend = Literal["cpu", "cuda", "hip"]

CSRC = PACKAGE / "csrc"
CPU_SOURCE, GPU_SOURCE, GPU_KERNELS = "roi_align_cpu.cpp", "roi_align_gpu.cpp", "roi_align_gpu.cu"
HOST_COMPILERS = ("c++", "g++", "clang++")
GPU_COMPILER_HOMES = {"nvcc": "CUDA_HOME", "hipcc": "ROCM_HOME"}
LIBRARY, DIGEST = "library.so", "library.sha256"

# Torch 2.10: the oldest version whose interface the sources use.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# No fused multiply-add: a sample on the border of the map must fall on the side where the reference
# has it, and a fused product rounds otherwise.
HOST_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", TARGET)
GPU_FLAGS = ("-O3", "-std=c++17")


class BuildError(LabkitError):
    """Failed compilation; ``log`` is the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Built:
    """A compiled library on disk; ``seconds`` is 0 if it was in the cache."""

    backend: Backend
    path: Path
    seconds: float
    note: str = ""


def cache_folder() -> Path:
    """Cache folder: ``LABKIT_CACHE``, or the user's cache folder."""
    named = os.environ.get("LABKIT_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("labkit", appauthor=False)


def gpu_backend() -> Backend:
    """GPU backend of this build of torch."""
    return "hip" if torch.version.hip else "cuda"


def build_kernels(backend: Backend) -> Built:
    """Compile the library, or take it from the cache.

    Several processes may build at once: each works in a folder of its own, and the finished folder
    takes its name in one step. A damaged library is made again. Where the cache cannot be written,
    the library is made for this process alone, which ``note`` says.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    folder = cache_folder()
    home = folder / f"roi_align-{backend}-{_key(backend)}"
    if _intact(home):
        return Built(backend, home / LIBRARY, 0.0)
    commands = _commands(backend)
    print(f"labkit: compiling RoIAlign for {backend}, once: {home}", file=sys.stderr, flush=True)
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
        for command in commands:
            _compile(command, work)
        if work != home:
            (work / DIGEST).write_text(_digest(work / LIBRARY))
            _publish(work, home)
    except OSError as error:
        raise BuildError(f"{home}: cannot be written: {error.strerror}") from error
    finally:
        if work != home:
            shutil.rmtree(work, ignore_errors=True)
    return Built(backend, home / LIBRARY, time.perf_counter() - start, note)


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


def _key(backend: Backend) -> str:
    """Hash of everything that the library depends on."""
    digest = hashlib.sha256()
    for source in sorted(CSRC.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    parts = [torch.__version__, platform.system(), platform.machine(), *HOST_FLAGS]
    parts += [os.environ.get("CXX", ""), _tuning(), _cpu_features()]
    if backend != "cpu":
        parts += [*GPU_FLAGS, *architectures(backend)]
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:16]


def _tuning() -> str:
    """Compiler flag for all instructions of this CPU."""
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _cpu_features() -> str:
    """Features of this CPU, because different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def architectures(backend: Backend) -> list[str]:
    """GPU architectures to compile for: those of torch's environment variable, else those present.

    Raises:
        BuildError: neither the variable nor a GPU says.
    """
    variable = "PYTORCH_ROCM_ARCH" if backend == "hip" else "TORCH_CUDA_ARCH_LIST"
    named = os.environ.get(variable, "").replace(";", " ").split()
    if named:
        return named
    if not torch.cuda.is_available():
        raise BuildError(
            f"no GPU is visible; to compile for one elsewhere, name it in {variable}, "
            f"such as {variable}={'gfx90a' if backend == 'hip' else '9.0'}"
        )
    devices = range(torch.cuda.device_count())
    if backend == "hip":
        return sorted({torch.cuda.get_device_properties(d).gcnArchName for d in devices})
    return sorted({"{}.{}".format(*torch.cuda.get_device_capability(d)) for d in devices})


def _commands(backend: Backend) -> list[list[str]]:
    """Commands to run in the target folder."""
    root = Path(torch.__file__).parent
    compiler = [*_host_compiler(), *HOST_FLAGS, "-I", str(root / "include")]
    link = ["-o", LIBRARY, "-L", str(root / "lib"), "-ltorch_cpu"]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    if backend == "cpu":
        return [[*compiler, _tuning(), "-shared", str(CSRC / CPU_SOURCE), *link]]
    kernels = gpu_kernel_command(backend, architectures(backend), Path("kernels.o"))
    host = [*compiler, "-DUSE_CUDA", "-c", str(CSRC / GPU_SOURCE), "-o", "host.o"]
    torch_gpu = "-ltorch_hip" if backend == "hip" else "-ltorch_cuda"
    return [kernels, host, [kernels[0], "-shared", "host.o", "kernels.o", *link, torch_gpu]]


def gpu_kernel_command(backend: Backend, archs: list[str], output: Path) -> list[str]:
    """Command that compiles the GPU kernels alone; it needs no GPU.

    Args:
        backend: "cuda" or "hip".
        archs: such as ``["8.0", "9.0"]`` or ``["gfx90a"]``.
        output: the object file.

    Raises:
        BuildError: the compiler is not installed.
    """
    include = ["-I", str(Path(torch.__file__).parent / "include")]
    source = str(CSRC / GPU_KERNELS)
    if backend == "hip":
        offload = [f"--offload-arch={arch}" for arch in archs]
        host = ["-fPIC", "-DUSE_ROCM", "-D__HIP_PLATFORM_AMD__", "-x", "hip"]
        hipcc = _gpu_compiler("hipcc")
        return [hipcc, *GPU_FLAGS, *offload, *include, *host, "-c", source, "-o", str(output)]
    targets = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        code = f"compute_{number}" if arch.endswith("+PTX") else f"sm_{number}"
        targets += ["-gencode", f"arch=compute_{number},code={code}"]
    nvcc = _gpu_compiler("nvcc")
    host = ["-Xcompiler", "-fPIC"]
    return [nvcc, *GPU_FLAGS, *targets, *include, *host, "-c", source, "-o", str(output)]


def _host_compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [[name] for name in HOST_COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    wanted = f"CXX names {named[0]}, which is not there" if named else "no C++ compiler was found"
    raise BuildError(f"{wanted}; `labkit doctor` names the command that installs one")


def find_gpu_compiler(name: str) -> str | None:
    """Path of ``nvcc`` or ``hipcc``: in ``CUDA_HOME`` or ``ROCM_HOME`` if set, else on ``PATH``."""
    folder = os.environ.get(GPU_COMPILER_HOMES[name])
    return shutil.which(name, path=str(Path(folder) / "bin") if folder else None)


def _gpu_compiler(name: str) -> str:
    found = find_gpu_compiler(name)
    if found is None:
        raise BuildError(f"{name} was not found; `labkit doctor` says how to install it")
    return found


def _compile(command: list[str], folder: Path) -> None:
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
