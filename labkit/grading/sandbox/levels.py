"""The levels of isolation of a kernel."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """Levels of isolation of a kernel, strongest first."""

    NAMESPACES = "namespaces"
    """Its own processes, files, network and users, by bubblewrap."""

    NAMESPACES_WITHOUT_PROC = "namespaces without /proc"
    """The same; inside some containers /proc cannot be mounted, so the kernel has none."""

    LANDLOCK = "landlock"
    """Files, TCP and signals only: UDP and the sight of other processes stay open."""

    PROCESS_ONLY = "process only"
    """A process with resource limits and nothing else: for code that is trusted."""


STRONG = (Level.NAMESPACES, Level.NAMESPACES_WITHOUT_PROC)
