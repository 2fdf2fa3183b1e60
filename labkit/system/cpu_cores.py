"""Number of available CPU cores, and CPU threads of torch."""

from __future__ import annotations

import math
import os
from pathlib import Path

from labkit.errors import LabkitError

VARIABLE = "LABKIT_THREADS"
"""Environment variable for torch's threads; it overrides the choice of a notebook."""

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables for the threads of libraries below torch and NumPy, read when loaded."""

CGROUPS = Path("/sys/fs/cgroup")  # where Linux keeps the limits of containers


def available_cores() -> int:
    """Return the number of CPU cores that this process may use.

    A container's limit counts (``docker run --cpus 2``), and so does ``taskset``.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def use_threads(count: int) -> None:
    """Set torch's CPU threads, to ``LABKIT_THREADS`` if it is set.

    Raises:
        LabkitError: ``LABKIT_THREADS`` is not a number from 1 on.
    """
    import torch  # here, because those who count cores only would wait for it

    wanted = os.environ.get(VARIABLE) or str(count)
    if not wanted.isdecimal() or int(wanted) < 1:
        raise LabkitError(f"{VARIABLE}: {wanted!r} is not a number of threads, 1 or more")
    torch.set_num_threads(int(wanted))


def _quota() -> float:
    """CPU limit of the container in cores; infinite without one."""
    for read in (_quota_of_version_2, _quota_of_version_1):
        try:
            granted, period = read()
            return int(granted) / int(period) if int(granted) > 0 else math.inf
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return math.inf


def _quota_of_version_2() -> list[str]:
    return (CGROUPS / "cpu.max").read_text().split()


def _quota_of_version_1() -> list[str]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    return [(CGROUPS / "cpu" / name).read_text() for name in names]
