"""Solutions in the source of a notebook: between two markers, replaced by a stub for students.

    # BEGIN SOLUTION                      <!-- BEGIN SOLUTION -->
    return x + 1                          The answer, in words.
    # END SOLUTION                        <!-- END SOLUTION -->

The same in the exercises of lessons and in the answer cells of assignments.
"""

from __future__ import annotations

import re

from labkit.errors import LabkitError

CODE_STUB = 'raise NotImplementedError("your code here")'
TEXT_STUB = "*Your answer here.*"

MARKERS = {
    "code": ("# BEGIN SOLUTION", "# END SOLUTION"),
    "markdown": ("<!-- BEGIN SOLUTION -->", "<!-- END SOLUTION -->"),
}
MARKER_LIKE = re.compile(r"(#|<!--)\s*(begin|end)[\s_-]*solution", re.IGNORECASE)


def take_solution(source: str, kind: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Split the content of a cell into what students get and what is taken from it.

    Args:
        source: the content.
        kind: of the cell: ``code``, ``markdown`` or ``raw``.
        where: the cell, for messages.

    Returns:
        The content with stubs instead of solutions, and the lines of the solutions.

    Raises:
        LabkitError: markers do not come in pairs, are misspelt, or have nothing between them.
    """
    begin, end = MARKERS.get(kind, MARKERS["code"])
    stub = CODE_STUB if kind == "code" else TEXT_STUB
    kept, taken = list[str](), list[str]()
    inside: list[str] | None = None
    for line in source.splitlines():
        marker = line.strip()
        if marker == begin:
            if inside is not None:
                raise LabkitError(f"{where}: {begin} inside a solution; end the first with {end}")
            inside = []
            kept.append(line[: line.index(begin)] + stub)
        elif marker == end:
            if inside is None:
                raise LabkitError(f"{where}: {end} without {begin} before it")
            if not any(map(str.strip, inside)):
                raise LabkitError(f"{where}: the solution is empty; write it, or drop the markers")
            taken += inside
            inside = None
        elif MARKER_LIKE.search(line):
            # A misspelt marker would leave the solution in the students' notebook.
            raise LabkitError(f"{where}: {marker!r}: the markers are {begin} and {end}, alone")
        elif inside is not None:
            inside.append(line)
        else:
            kept.append(line)
    if inside is not None:
        raise LabkitError(f"{where}: {begin} without {end} after it")
    return "\n".join(kept), tuple(taken)


def without_markers(source: str, kind: str) -> str:
    """Return the content of a cell with its solutions and without their markers."""
    markers = MARKERS.get(kind, ())
    return "\n".join(line for line in source.splitlines() if line.strip() not in markers)
