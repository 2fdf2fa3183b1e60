"""How many CPU cores there are to share out."""

from __future__ import annotations

import math
import os
from pathlib import Path

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


def _quota() -> float:
    """The cores' worth of time that the container's limit grants; infinite without one."""
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
