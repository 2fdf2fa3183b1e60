"""Compilation of the kernels in ``labkit/csrc`` for this machine, once, into a cache.

The sources use PyTorch's stable C++ interface (``torch/csrc/stable``, torch 2.10 and newer), which
needs neither Python's headers nor a build system: a compiler and one command are enough. A new
torch makes a new library, like everything else that it depends on (``compiled_library``).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Literal

import torch

from labkit.system.compiled_library import (
    CSRC,
    HOST_FLAGS,
    LIBRARY,
    BuildError,
    Built,
    build_library,
    cpu_flag,
    host_compiler,
    library_key,
)

Backend = Literal["cpu", "cuda", "hip"]

CPU_SOURCE, GPU_SOURCE, GPU_KERNELS = "roi_align_cpu.cpp", "roi_align_gpu.cpp", "roi_align_gpu.cu"
GPU_COMPILER_HOMES = {"nvcc": "CUDA_HOME", "hipcc": "ROCM_HOME"}

# Torch 2.10: the oldest version whose interface the sources use.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# No fused multiply-add: a sample on the border of the map must fall on the side where the reference
# has it, and a fused product rounds otherwise.
TORCH_FLAGS = ("-ffp-contract=off", TARGET)
GPU_FLAGS = ("-O3", "-std=c++17")


def gpu_backend() -> Backend:
    """GPU backend of this build of torch."""
    return "hip" if torch.version.hip else "cuda"


def build_kernels(backend: Backend) -> Built:
    """Compile the library, or take it from the cache.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    return build_library(
        f"roi_align-{backend}",
        f"RoIAlign for {backend}",
        _key(backend),
        lambda: _commands(backend),
    )


def _key(backend: Backend) -> str:
    parts = [torch.__version__, *TORCH_FLAGS]
    if backend != "cpu":
        parts += [*GPU_FLAGS, *architectures(backend)]
    return library_key(CSRC.iterdir(), parts)


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
    compiler = [*host_compiler(), *HOST_FLAGS, *TORCH_FLAGS, "-I", str(root / "include")]
    link = ["-o", LIBRARY, "-L", str(root / "lib"), "-ltorch_cpu"]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    if backend == "cpu":
        return [[*compiler, cpu_flag(), "-shared", str(CSRC / CPU_SOURCE), *link]]
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


def find_gpu_compiler(name: str) -> str | None:
    """Path of ``nvcc`` or ``hipcc``: in ``CUDA_HOME`` or ``ROCM_HOME`` if set, else on ``PATH``."""
    folder = os.environ.get(GPU_COMPILER_HOMES[name])
    return shutil.which(name, path=str(Path(folder) / "bin") if folder else None)


def _gpu_compiler(name: str) -> str:
    found = find_gpu_compiler(name)
    if found is None:
        raise BuildError(f"{name} was not found; `labkit doctor` says how to install it")
    return found
