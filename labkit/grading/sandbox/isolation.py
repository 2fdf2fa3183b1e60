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
from labkit.grading.sandbox.confine import try_out
from labkit.grading.sandbox.levels import STRONG, Level

TRY_SECONDS = 20.0
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_SIGNALS = 6  # the version since which signals and abstract sockets are shut in too


@dataclass(frozen=True)
class Findings:
    """What this machine offers: the levels that work, the strongest first, and for each of the
    others why not and what to do."""

    works: tuple[Level, ...]
    reasons: dict[Level, str]


@functools.cache
def probe() -> Findings:
    """Try every level out on a small process, once in this process."""
    works, reasons = list[Level](), dict[Level, str]()
    for level in Level:
        if works and level in STRONG:
            continue  # the strongest of the two is enough
        missing = _missing(level)
        problem = missing or try_out(level, TRY_SECONDS)
        if problem:
            reasons[level] = problem + ("" if missing else _advice(level))
        else:
            works.append(level)
    return Findings(tuple(works), reasons)


def choose(wanted: str | None = None, *, allow_unsandboxed: bool = False) -> Level:
    """Return the level to grade with.

    Args:
        wanted: one of the levels by name, also a weaker one; by default the strongest that this
            machine offers, and at least namespaces.
        allow_unsandboxed: also take a level without namespaces where nothing better works.

    Raises:
        LabkitError: there is no such level, or this machine does not offer it, or it is process
            only and nobody allowed that; the message says what to do.
    """
    found = probe()
    if wanted is not None:
        if wanted not in list(Level):
            raise LabkitError(f"there is no isolation {wanted!r}: {', '.join(Level)}")
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
        f"submissions cannot be shut in: {found.reasons[Level.NAMESPACES]}. What this machine "
        f"offers is weaker and must be asked for: {offered}"
    )


def landlock_version() -> int:
    """Return the version of Landlock that the Linux kernel speaks; 0 where it does not."""
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
