"""The refusal of a name that does not exist, with the names that the user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from labkit.errors import LabkitError

CUTOFF = 0.6
"""difflib's similarity from which a name is suggested."""
MARGIN = 0.04
"""Names that are by more than this less similar than the closest one are not suggested."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], listing: str | None = None
) -> LabkitError:
    """The error to raise for an unknown name.

    Args:
        kind: what it should be the name of, such as "preset".
        name: as the user wrote it.
        known: the names that exist.
        listing: the end of the message; None: all known names.
    """
    known = list(known)
    hint = did_you_mean(name, known)
    listing = listing or f"there are: {', '.join(known) or 'none'}"
    return LabkitError(f"there is no {kind} {name!r}{': ' + hint if hint else ';'} {listing}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question "did you mean A or B?" with the similar names among the known; or ""."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 3, CUTOFF)
    if not close:
        return ""
    best = _similarity(name.lower(), close[0])
    near = [by_lower[n] for n in close if _similarity(name.lower(), n) >= best - MARGIN]
    return f"did you mean {' or '.join(near)}?"


def _similarity(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()
