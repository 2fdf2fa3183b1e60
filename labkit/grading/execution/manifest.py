"""The manifest of a grading's folder: what is needed to resume it and to score it again.

``grading.json`` holds the request and who handed in what; ``harvest/CONTENTHASH`` holds one
submission's answers. A harvest that is there, whole, and of the same assignment is never repeated:
no other state is kept, and so none can be wrong.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.intake.submissions import HandedIn, Submission
from labkit.grading.sandbox.scratch import NOTE
from labkit.system.atomic_write import atomic_write
from labkit.system.folder_lock import LOCK
from labkit.system.typed_json import from_json

FILE = "grading.json"
HARVESTS, UNPACKED = "harvest", "submissions"
VERSION = 1


@dataclass(frozen=True)
class Grading:
    """What was asked for, and who handed in what.

    Attributes:
        assignment: its name.
        folder: where it lies.
        late_policy: the file; None without one.
        command: what was typed.
        students: who handed in what.
        problems: what is nobody's.
        anonymous: the marker sees pseudonyms instead of names.
    """

    assignment: str
    folder: Path
    late_policy: Path | None
    command: str
    students: tuple[HandedIn, ...] = ()
    problems: tuple[str, ...] = field(default=())
    anonymous: bool = False
    version: int = VERSION


def harvest_folder(out: Path, submission: Submission) -> Path:
    """Return where a submission's answers are kept."""
    return out / HARVESTS / submission.content_hash


def require_usable(out: Path, assignment: str) -> None:
    """Refuse a folder that holds something else than this assignment's grading.

    Raises:
        LabkitError: it does.
    """
    if out.exists() and not out.is_dir():
        raise LabkitError(f"{out} is not a folder; choose another --out")
    if (out / FILE).is_file():
        found = read_grading(out).assignment
        if found != assignment:
            raise LabkitError(f"{out} holds the grading of {found}; choose another --out")
    elif out.is_dir() and any(path.name not in {LOCK, NOTE, UNPACKED} for path in out.iterdir()):
        raise LabkitError(f"{out} holds something else than a grading; choose another --out")


def write_grading(out: Path, grading: Grading) -> None:
    """Write ``grading.json``.

    Raises:
        LabkitError: it cannot be written.
    """
    with atomic_write(out / FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(grading), file, indent=1, default=_text)
        file.flush()
        os.fsync(file.fileno())


def read_grading(out: Path) -> Grading:
    """Read ``grading.json``.

    Raises:
        LabkitError: there is none, or it is damaged.
    """
    path = out / FILE
    try:
        return from_json(Grading, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise LabkitError(f"{out}: no {FILE}; give the --out folder of labkit grade") from error
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LabkitError(f"{path}: damaged ({error}); grade into another --out") from error


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
