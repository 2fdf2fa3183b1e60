"""Paths of the workbook's files, and folders that labkit may write to.

In a checkout the notebooks, the assignments and the tables and small weights of ``data/`` lie
beside the package. A wheel carries them within it (``pyproject.toml`` says which), and there
nothing is written: what labkit makes goes to the user's folders.
"""

from __future__ import annotations

import os
import tempfile
from importlib.resources import files
from pathlib import Path

from labkit.errors import LabkitError

PACKAGE = Path(str(files("labkit"))).resolve()
CARRIED = PACKAGE / "course"
"""In a wheel ``notebooks``, ``assignments`` and ``data``; a checkout has no such folder."""

CHECKOUT = None if CARRIED.is_dir() else PACKAGE.parent
"""Checkout that labkit runs from; None for an installed wheel."""

WORKBOOK = CHECKOUT or CARRIED
"""Folder of ``notebooks``, ``assignments`` and ``data``."""

DATA = WORKBOOK / "data"
"""Folder of the download tables and of ``checkpoints``, the small weights."""


def writable(folder: Path) -> bool:
    """Whether files can be created in a folder, by trying: permissions are not sufficient."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def may_write(folder: Path) -> bool:
    """Whether labkit may write to a folder: it is writable and not part of an installation."""
    return not folder.is_relative_to(CARRIED) and writable(folder)


def runs_folder(root: Path) -> Path:
    """Folder of reports: ``runs`` in the workbook, or else in the working directory."""
    return (root if may_write(root) else Path.cwd()) / "runs"


def download_folder() -> Path:
    """Download folder: ``$LABKIT_DOWNLOADS``, ``data/downloads`` of the checkout, or the user's.

    The user's data folder is used without a checkout, and if the checkout is not writable and has
    no downloads.
    """
    named = os.environ.get("LABKIT_DOWNLOADS")
    if named:
        return Path(named)
    if CHECKOUT is not None:
        folder = CHECKOUT / "data" / "downloads"
        if folder.is_dir() or writable(CHECKOUT / "data"):
            return folder
    import platformdirs

    return platformdirs.user_data_path("labkit", appauthor=False) / "downloads"


def find_data(folder: str) -> Path | None:
    """Find a data set's folder in ``$LABKIT_DATA`` or in the download folder.

    Args:
        folder: its name, such as ``PennFudanPed``.

    Returns:
        Its path, or None if it is in neither.
    """
    named = os.environ.get("LABKIT_DATA")
    places = [*([Path(named)] if named else []), download_folder()]
    return next((place / folder for place in places if (place / folder).is_dir()), None)


def prepare_downloads(folder: Path) -> None:
    """Create the download folder.

    Raises:
        LabkitError: it is not writable.
    """
    reason = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f": {error.strerror}"
    if reason or not writable(folder):
        raise LabkitError(
            f"the download folder {folder} cannot be written{reason}; name another one with --dir"
            " or the environment variable LABKIT_DOWNLOADS"
        )
