"""The manifest of a grading, with which it can be resumed and scored again.

``grading.json`` contains the arguments and the submissions of all students; ``harvest/CONTENTHASH``
contains the answers of one submission. A complete harvest of the same assignment is never repeated;
no other state is stored.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.intake.submissions import StudentSubmissions, Submission
from labkit.grading.sandbox.scratch import NOTE
from labkit.system.atomic_write import atomic_write
from labkit.system.folder_lock import LOCK
from labkit.system.typed_json import from_json

FILE = "grading.json"
HARVESTS, UNPACKED = "harvest", "submissions"
VERSION = 1


@dataclass(frozen=True)
class GradingManifest:
    """The content of ``grading.json``.

    Attributes:
        assignment: the name of the assignment.
        folder: the folder of the assignment.
        late_policy: the file; None without one.
        command: the command line.
        students: the submissions of all students.
        problems: problems that concern no single student.
        anonymous: whether the marker sees pseudonyms instead of names.
    """

    assignment: str
    folder: Path
    late_policy: Path | None
    command: str
    students: tuple[StudentSubmissions, ...] = ()
    problems: tuple[str, ...] = field(default=())
    anonymous: bool = False
    version: int = VERSION


def harvest_folder(out: Path, submission: Submission) -> Path:
    """Return the folder for the harvest of a submission."""
    return out / HARVESTS / submission.content_hash


def require_usable(out: Path, assignment: str) -> None:
    """Refuse a folder with other content than a grading of this assignment.

    Raises:
        LabkitError: the folder has other content.
    """
    if out.exists() and not out.is_dir():
        raise LabkitError(f"{out} is not a folder; choose another --out")
    if (out / FILE).is_file():
        found = read_manifest(out).assignment
        if found != assignment:
            raise LabkitError(f"{out} contains the grading of {found}; choose another --out")
    elif out.is_dir() and any(path.name not in {LOCK, NOTE, UNPACKED} for path in out.iterdir()):
        raise LabkitError(f"{out} contains other files than a grading; choose another --out")


def write_manifest(out: Path, grading: GradingManifest) -> None:
    """Write ``grading.json``.

    Raises:
        LabkitError: the file cannot be written.
    """
    with atomic_write(out / FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(grading), file, indent=1, default=_text)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(out: Path) -> GradingManifest:
    """Read ``grading.json``.

    Raises:
        LabkitError: the file is missing or damaged.
    """
    path = out / FILE
    try:
        return from_json(GradingManifest, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise LabkitError(f"{out}: no {FILE}; give the --out folder of labkit grade") from error
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LabkitError(f"{path}: damaged ({error}); grade into another --out") from error


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
