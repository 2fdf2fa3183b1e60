"""Error messages about unknown names, with suggestions of similar names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from labkit.errors import LabkitError

CUTOFF = 0.6
"""Smallest similarity (difflib's ratio) of a suggested name."""
MARGIN = 0.04
"""Largest difference in similarity of a suggested name to the closest one."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], listing: str | None = None
) -> LabkitError:
    """Build the error for an unknown name.

    Args:
        kind: kind of the name, such as "preset".
        name: the unknown name.
        known: the existing names.
        listing: end of the message; None for a list of all existing names.
    """
    known = list(known)
    hint = did_you_mean(name, known)
    listing = listing or f"there are: {', '.join(known) or 'none'}"
    return LabkitError(f"there is no {kind} {name!r}{': ' + hint if hint else ';'} {listing}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask "did you mean A or B?" with similar existing names; "" without any."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 3, CUTOFF)
    if not close:
        return ""
    best = _similarity(name.lower(), close[0])
    near = [by_lower[n] for n in close if _similarity(name.lower(), n) >= best - MARGIN]
    return f"did you mean {' or '.join(near)}?"


def _similarity(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()
