"""The folder for the sandboxes of a grading, removed even if the grader was killed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SCRATCH = "labkit-grade-"
NOTE = ".scratch"


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Yield a folder for the sandboxes; the caller holds the lock of `out`.

    A file in `out` holds its name, so that the next grader removes the folder of a killed one.
    """
    note = out / NOTE
    left = Path(note.read_text(encoding="utf-8").strip() or "-") if note.is_file() else Path("-")
    if left.name.startswith(SCRATCH):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        folder.chmod(0o711)  # the sandbox's user passes through
        note.write_text(str(folder), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
