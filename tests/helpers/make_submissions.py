"""Twenty submissions as a course hands them in: good, bad, late, copied, broken, hostile.

``python tests/helpers/make_submissions.py DIR`` makes DIR/assignments/iou, DIR/submissions and
DIR/late.toml to try the grading on (docs/grading.md).
"""

from __future__ import annotations

import copy
import os
import sys
import zipfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from labkit.grading.authoring.assignment import LoadedAssignment, load_assignment
from labkit.grading.authoring.release import write_notebook

SOURCE = '''\
# %% [markdown]
# # Intersection over union

# %% tags=["setup"]
import numpy as np

# %% [markdown]
# A box is `(x1, y1, x2, y2)`. Write the intersection over union of every pair (6 points).

# %% exercise="box_iou"
def box_iou(a, b):
    """Return the (N, M) intersection over union of boxes a (N, 4) and b (M, 4); 0 without area."""
    # BEGIN SOLUTION
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (bottom_right - top_left).clip(min=0).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-12), 0.0)
    # END SOLUTION

# %% tags=["check"]
assert box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).shape == (1, 1)

# %% [markdown] question="scale"
# Both boxes are stretched by the same factor. What happens to their intersection over union?
#
# <!-- BEGIN SOLUTION -->
# Nothing: both areas grow by the square of the factor, which cancels.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import numpy as np

def boxes(rng, number):
    corners = rng.uniform(0, 100, (number, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

def pairs(rng):
    return [{"a": boxes(rng, 6), "b": boxes(rng, 5)} for _ in range(5)]

def points(rng):
    x, y = rng.uniform(1, 50, 2)
    point = np.array([[x, y, x, y]])
    return [{"a": point, "b": point}, {"a": boxes(rng, 3), "b": point}]

def reference(a, b):
    from torchvision.ops import box_iou
    import torch

    return box_iou(torch.from_numpy(a), torch.from_numpy(b)).nan_to_num(0.0).numpy()

ASSIGNMENT = Assignment(
    title="Intersection over union",
    minutes=20,
    probes=[
        Probe("random-boxes", "box_iou", "box_iou", 4, pairs, reference=reference, seconds=5),
        Probe("no-area", "box_iou", "box_iou", 2, points, reference=reference, seconds=5),
    ],
    questions=[Question("scale", 2, "1 point: it stays. 1 point: the factor cancels.")],
    limits=Limits(cell_seconds=4, total_seconds=90, memory_mb=1000, output_mb=1),
)
'''

DEADLINE = datetime(2026, 5, 3, 23, 59).astimezone()
POLICY = """\
deadline = 2026-05-03T23:59:00
grace_minutes = 15
percent_per_day = 10
last_day = 5

[extensions]
leo = 2026-05-10
"""

RIGHT = """\
def box_iou(a, b):
    rows = []
    for p in a:
        row = []
        for q in b:
            width = max(0.0, min(p[2], q[2]) - max(p[0], q[0]))
            height = max(0.0, min(p[3], q[3]) - max(p[1], q[1]))
            both = width * height
            union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - both
            row.append(both / union if union > 0 else 0.0)
        rows.append(row)
    return np.array(rows)
"""
OWN = RIGHT.replace("rows", "table").replace("row", "line")
HALF = RIGHT.replace(" if union > 0 else 0.0", " if union > 0 else 1.0")
WRONG = "def box_iou(a, b):\n    return np.ones((len(a), len(b)))\n"
ANSWER = "It stays the same, as the factor cancels."


@dataclass(frozen=True)
class Expected:
    """What a submission earns, questions and lateness aside, and how its run ends."""

    points: float | None
    state: str = "ok"


EXPECTED = {
    "ada": Expected(6),
    "bob": Expected(6),
    "carol": Expected(6),
    "dan": Expected(5),
    "eve": Expected(0),
    "frank": Expected(0),
    "grace": Expected(0, "bad-notebook"),
    "heidi": Expected(6),
    "ivan": Expected(6),
    "judy": Expected(0, "dead-kernel"),
    "kevin": Expected(0, "cell-timeout"),
    "leo": Expected(6),
    "mona": Expected(6),
    "nick {x} ünï (1)": Expected(6),
    "olga": Expected(None),
    "peter": Expected(0),
    "quinn": Expected(6),
    "rosa": Expected(6),
    "sam": Expected(0, "flood"),
    "tina": Expected(0, "cell-error"),
}


def make_assignment(folder: Path) -> LoadedAssignment:
    """Write the assignment ``iou`` into a folder of assignments."""
    (folder / "iou").mkdir(parents=True)
    (folder / "iou" / "source.py").write_text(SOURCE, encoding="utf-8")
    loaded = load_assignment(folder / "iou")
    write_notebook(loaded.notebook, folder / "iou" / "iou.ipynb")
    return loaded


def answered(loaded: LoadedAssignment, source: str, text: str = "", mark: str = "") -> Any:
    """Return the students' notebook with an answer to the exercise and the question in it."""
    notebook = copy.deepcopy(loaded.notebook)
    for cell in notebook.cells:
        given = cell.metadata.get("labkit", {})
        if given.get("exercise") == "box_iou":
            cell.source = source
        elif given.get("question") == "scale" and text:
            cell.source += f"\n\n{text}"
    notebook.cells[0].source += f"\n\n{mark}" if mark else ""
    return notebook


def make_submissions(folder: Path, loaded: LoadedAssignment) -> None:
    """Write the submissions of the twenty students of ``EXPECTED`` into a folder."""
    folder.mkdir(parents=True)

    def write(name: str, source: str, text: str = "", days: float = -1.0) -> Path:
        path = folder / name
        write_notebook(answered(loaded, source, text, mark=f"By {name}"), path)
        return _dated(path, days)

    write("ada.ipynb", RIGHT, ANSWER)
    write("bob.ipynb", OWN, "No idea.")
    write("carol.ipynb", "# my own work\n" + OWN.replace("    table = []", "    table = []  # all"))
    write("dan.ipynb", HALF, ANSWER)
    write("eve.ipynb", WRONG)
    write_notebook(loaded.notebook, folder / "frank.ipynb")
    (folder / "grace.ipynb").write_bytes((folder / "ada.ipynb").read_bytes()[:-200])
    write("heidi.ipynb", RIGHT, days=1.5)
    (folder / "ivan.ipynb").write_bytes((folder / "ada.ipynb").read_bytes())
    write("judy.ipynb", "import os\nos._exit(1)\n")
    write("kevin.ipynb", "while True:\n    pass\n" + RIGHT)
    write("leo/first.ipynb", WRONG, days=-3.0)
    write("leo/second try.ipynb", RIGHT, days=2.0)
    _zip(folder / "mona.zip", loaded)
    write("nick {x} ünï (1).ipynb", RIGHT)
    (folder / "olga").mkdir()
    (folder / "olga" / "report.pdf").write_bytes(b"%PDF-1.4")
    other = answered(loaded, WRONG)
    other.metadata["labkit"] = {"assignment": "another"}
    write_notebook(other, folder / "peter.ipynb")
    write_notebook(_split(loaded), folder / "quinn.ipynb")
    noisy = "import sys, warnings\nwarnings.warn('old')\nprint('debug', file=sys.stderr)\n"
    write("rosa.ipynb", noisy + RIGHT.replace("np.array(rows)", "np.array(rows, dtype='float32')"))
    write("sam.ipynb", "while True:\n    print('x' * 10_000)\n")
    write("tina.ipynb", "raise RuntimeError('to do')\n")
    for path in folder.glob("*.ipynb"):
        if path.stem in {"frank", "grace", "ivan", "peter", "quinn"}:
            _dated(path, -1.0)


def _dated(path: Path, days: float) -> Path:
    moment = (DEADLINE + timedelta(days=days)).timestamp()
    os.utime(path, (moment, moment))
    return path


def _zip(path: Path, loaded: LoadedAssignment) -> None:
    notebook = path.with_suffix(".ipynb")
    write_notebook(answered(loaded, RIGHT, mark="By mona"), notebook)
    with zipfile.ZipFile(path, "w") as archive:
        when = (2026, 5, 2, 12, 0, 0)
        archive.writestr(zipfile.ZipInfo("homework/iou.ipynb", when), notebook.read_bytes())
        archive.writestr(zipfile.ZipInfo("homework/data.csv", when), "1,2")
        archive.writestr(zipfile.ZipInfo("__MACOSX/homework/._iou.ipynb", when), b"\0")
    notebook.unlink()


def _split(loaded: LoadedAssignment) -> Any:
    """The answer in two cells, its first half by itself no Python; and the empty cell once more."""
    notebook = answered(loaded, RIGHT)
    index = next(
        index
        for index, cell in enumerate(notebook.cells)
        if cell.metadata.get("labkit", {}).get("exercise")
    )
    lines = RIGHT.splitlines(keepends=True)
    second, empty = copy.deepcopy(notebook.cells[index]), copy.deepcopy(notebook.cells[index])
    notebook.cells[index].source, second.source = "".join(lines[:3]), "".join(lines[3:])
    empty.source = next(iter(loaded.exercises.values())).stub
    second.id, empty.id = "second-half", "empty-copy"
    notebook.cells[index + 1 : index + 1] = [second, empty]
    return notebook


def main() -> None:
    folder = Path(sys.argv[1])
    make_submissions(folder / "submissions", make_assignment(folder / "assignments"))
    (folder / "late.toml").write_text(POLICY, encoding="utf-8")


if __name__ == "__main__":
    main()
