"""The few facts about data-parallel processes that training and evaluation need.

``torchrun --nproc-per-node N ...`` starts N processes and tells each its rank through environment
variables; started plainly there is one process, rank 0 of 1, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from labkit.folder_lock import locked


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that torchrun describes, and leave it at the end; alone, do nothing."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(default_device())  # or every process would gather on the first GPU
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def lock_once(folder: Path, command: str) -> Iterator[None]:
    """Hold :func:`~labkit.folder_lock.locked` in the first process, for all of them."""
    if rank() > 0:
        yield
        return
    with locked(folder, command):
        yield


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def default_device() -> torch.device:
    """This process's GPU (CUDA or ROCm, torch calls both cuda) where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
