"""Where the workbook's files are, and where labkit may write.

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
"""The checkout that labkit runs from, if it does."""

WORKBOOK = CHECKOUT or CARRIED
"""The folder of ``notebooks``, ``assignments`` and ``data``."""

DATA = WORKBOOK / "data"
"""The tables of what can be fetched, and ``checkpoints``, the small weights."""


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder: tried, because permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def may_write(folder: Path) -> bool:
    """Whether labkit writes into a folder: not into what is installed, nor what is protected."""
    return not folder.is_relative_to(CARRIED) and writable(folder)


def runs_folder(root: Path) -> Path:
    """Where reports go: ``runs`` of a workbook, or else of the working directory."""
    return (root if may_write(root) else Path.cwd()) / "runs"


def download_folder() -> Path:
    """``$LABKIT_DOWNLOADS``, or ``data/downloads`` of the checkout, or the user's data folder.

    The last serves where there is no checkout, and where it cannot be written and has no downloads.
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


def prepare_downloads(folder: Path) -> None:
    """Make the download folder.

    Raises:
        LabkitError: it cannot be written.
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
