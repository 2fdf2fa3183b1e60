"""Data-parallel processes of training and evaluation: rank, device, sums.

``torchrun --nproc-per-node N ...`` starts N processes and sets their ranks in environment
variables. Without torchrun there is one process with rank 0, and the functions here do nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from labkit.errors import LabkitError
from labkit.system.folder_lock import locked

VARIABLE = "LABKIT_DEVICE"
"""Environment variable: "cpu", "cuda" or "cuda:N", for this process and the ones it starts."""


@contextmanager
def process_group(device: torch.device | None = None) -> Iterator[None]:
    """Join torchrun's process group and leave it at the end; in a single process, do nothing.

    Args:
        device: this process's; None is :func:`default_device`.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    device = device or default_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or every process would gather on the first GPU
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def lock_once(folder: Path, command: str) -> Iterator[None]:
    """Hold :func:`~labkit.system.folder_lock.locked` in the first process, for all of them."""
    if rank() > 0:
        yield
        return
    with locked(folder, command):
        yield


def rank() -> int:
    """Rank of this process, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(counts: Tensor) -> Tensor:
    """Sum the ``counts`` of all processes (same shape and type, any device), on the CPU.

    Every process must call it, one without images or objects as well: the others wait.
    """
    if not dist.is_initialized():
        return counts.cpu()
    # NCCL, the GPUs' backend, knows no tensor of the CPU.
    device = default_device() if dist.get_backend() == "nccl" else torch.device("cpu")
    total = counts.to(device, copy=True)
    dist.all_reduce(total)
    return total.cpu()


def default_device(wanted: str | None = None) -> torch.device:
    """Choose the device: the given one, else this process's GPU if it has one, else the CPU.

    Torch calls the GPUs of CUDA and of ROCm both cuda.

    Args:
        wanted: "cpu", "cuda" or "cuda:N"; None is what ``LABKIT_DEVICE`` says.

    Raises:
        LabkitError: that is no device, or there is no such GPU.
    """
    wanted = wanted or os.environ.get(VARIABLE, "")
    place = re.fullmatch(r"(cpu)|cuda(?::(\d+))?|", wanted)
    if place is None:
        raise LabkitError(f"--device: {wanted!r} is not one of cpu, cuda, cuda:NUMBER")
    if place[1] or (not wanted and not torch.cuda.is_available()):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if not torch.cuda.is_available():
        raise LabkitError(
            f"--device {wanted} needs a CUDA or ROCm GPU, and torch {torch.__version__} sees none;"
            " `labkit doctor` says what this machine has"
        )
    if place[2] and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise LabkitError(f"--device {wanted}: torchrun gives each process its own GPU; say cuda")
    index, count = int(place[2] or local), torch.cuda.device_count()
    if index >= count:
        raise LabkitError(
            f"--device {wanted or 'cuda'}: there is no GPU {index}; this machine has {count},"
            " counted from 0"
        )
    return torch.device("cuda", index)
