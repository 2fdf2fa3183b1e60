"""Zip files of all feedback pages, for upload to Moodle or Canvas.

Moodle (*View all submissions, Upload multiple feedback files in a zip*) finds the student of a file
from its folder ``NAME_NUMBER_assignsubmission_file`` (moodle,
``mod/assign/feedback/file/importziplib.php``). Canvas (*Download submissions, Re-upload
submissions*) looks for two numbers between underscores, those of the student and of the submitted
file, and shows the upload under the name of that file (canvas-lms,
``app/models/abstract_assignment.rb``). The feedback for a notebook is therefore a notebook.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.release import notebook_bytes
from labkit.grading.intake.submissions import CANVAS
from labkit.grading.reports.feedback import feedback_page
from labkit.grading.reports.gradebook import Entry
from labkit.system.atomic_write import atomic_write

MOODLE_FILE, CANVAS_FILE = "feedback_moodle.zip", "feedback_canvas.zip"
EPOCH = (2000, 1, 1, 0, 0, 0)  # so that equal pages give equal archives


def write_feedback_zips(
    entries: Sequence[Entry], loaded: LoadedAssignment, folder: Path
) -> list[Path]:
    """Write one zip file for each course system whose numbers the students have.

    Returns:
        The files written.

    Raises:
        LabkitError: a file cannot be written.
    """
    members: dict[str, dict[str, bytes]] = {MOODLE_FILE: {}, CANVAS_FILE: {}}
    for entry in entries:
        page = feedback_page(entry, loaded)
        if entry.student.moodle_id:
            # Everything before the first underscore is the name.
            name = " ".join(entry.student.name.replace("_", " ").replace("/", " ").split())
            owner = f"{name}_{entry.student.moodle_id}_assignsubmission_file"
            members[MOODLE_FILE][f"{owner}/feedback.html"] = page.encode()
        submitted = CANVAS.fullmatch(PurePosixPath(entry.file).parts[0]) if entry.file else None
        if submitted is not None:
            owner = f"{submitted['name']}_{submitted['id']}_{submitted['file']}_feedback"
            if PurePosixPath(entry.file).parts[0].lower().endswith(".ipynb"):
                members[CANVAS_FILE][f"{owner}.ipynb"] = _notebook(page)
            else:
                members[CANVAS_FILE][f"{owner}.html"] = page.encode()
    written = []
    for name, contents in members.items():
        path = folder / name
        if not contents:
            path.unlink(missing_ok=True)
            continue
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for member, content in contents.items():
                info = zipfile.ZipInfo(member, EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        written.append(path)
    return written


def _notebook(page: str) -> bytes:
    """Return a notebook with a page in a markdown cell."""
    import nbformat

    body = page.partition("<main>")[2].partition("</main>")[0]
    # In markdown, blank lines end HTML and indentation begins code.
    text = "\n".join(line.strip() for line in body.splitlines() if line.strip())
    cell = nbformat.v4.new_markdown_cell(text, id="feedback")
    return notebook_bytes(nbformat.v4.new_notebook(cells=[cell]))
