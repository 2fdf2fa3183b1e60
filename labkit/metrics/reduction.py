"""Adding up what the processes of a data-parallel evaluation have counted."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_processes(counts: Tensor) -> Tensor:
    """The sum of every process's ``counts`` (same shape, on the CPU); alone, ``counts`` itself."""
    if not dist.is_initialized():
        return counts
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = counts.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(torch.device("cpu"))
