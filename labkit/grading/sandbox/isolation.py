"""Which levels of isolation work on this machine: each is tried out rather than assumed."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from labkit.errors import LabkitError
from labkit.grading.sandbox.confine import try_level
from labkit.grading.sandbox.levels import STRONG, Level

TRY_SECONDS = 20.0
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_SIGNALS = 6  # the version from which signals and abstract sockets are confined too


@dataclass(frozen=True)
class AvailableLevels:
    """The levels that work, strongest first, and why each of the others does not work."""

    works: tuple[Level, ...]
    reasons: dict[Level, str]


@functools.cache
def probe() -> AvailableLevels:
    """Test every level on a small process; the result is cached."""
    works, reasons = list[Level](), dict[Level, str]()
    for level in Level:
        if works and level in STRONG:
            continue  # the strongest of the two is enough
        missing = _missing(level)
        problem = missing or try_level(level, TRY_SECONDS)
        if problem:
            reasons[level] = problem + ("" if missing else _advice(level))
        else:
            works.append(level)
    return AvailableLevels(tuple(works), reasons)


def choose(wanted: str | None = None, *, allow_unsandboxed: bool = False) -> Level:
    """Return the level to grade with.

    Args:
        wanted: the name of a level; by default the strongest one of this machine, which must
            have namespaces.
        allow_unsandboxed: by default accept a level without namespaces; allow `process only`.

    Raises:
        LabkitError: the level does not exist, does not work here, or is `process only` without
            permission; the message says what to do.
    """
    found = probe()
    if wanted is not None:
        if wanted not in list(Level):
            raise LabkitError(
                f"there is no isolation {wanted!r}; the levels are: {', '.join(Level)}"
            )
        level = Level(wanted)
        if level in found.reasons:
            raise LabkitError(f"isolation {wanted!r} does not work: {found.reasons[level]}")
        if level is Level.PROCESS_ONLY and not allow_unsandboxed:
            raise LabkitError(
                "isolation 'process only' lets a submission read and change whatever you can; "
                "add --allow-unsandboxed if every submission is trusted"
            )
        return level
    if found.works[0] in STRONG or allow_unsandboxed:
        return found.works[0]
    offered = " or ".join(
        "--allow-unsandboxed" if level is Level.PROCESS_ONLY else f"--isolation {level}"
        for level in found.works
    )
    raise LabkitError(
        f"the sandbox does not work: {found.reasons[Level.NAMESPACES]}. This machine offers only "
        f"weaker isolation, which you must choose explicitly: {offered}"
    )


def landlock_version() -> int:
    """Return the version of Landlock that the Linux kernel supports; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1))


def _missing(level: Level) -> str:
    if level in STRONG and shutil.which("bwrap") is None:
        return "bubblewrap is missing; install it: apt-get install bubblewrap"
    if level is Level.LANDLOCK and not landlock_version():
        return "the Linux kernel has no Landlock (5.13 or newer, with lsm=landlock)"
    tools = ["prlimit", *(["setpriv"] if os.geteuid() == 0 else [])]
    for tool in tools:
        if shutil.which(tool) is None:
            return f"{tool} is missing; install it: apt-get install util-linux"
    return ""


def _advice(level: Level) -> str:
    if level not in STRONG:
        return ""
    try:
        with open(APPARMOR, encoding="ascii") as file:  # noqa: PTH123
            restricted = file.read().strip() == "1"
    except OSError:
        restricted = False
    if restricted:
        return (
            "; AppArmor denies user namespaces to bubblewrap: allow them with an AppArmor profile "
            "for /usr/bin/bwrap that says `userns,`, or for everybody with "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
        )
    version = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
    return f" ({version.stdout.strip()}; version 0.8 or newer is needed, and user namespaces)"
