"""The images that a command line names: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from labkit.errors import LabkitError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""How the names of images in a folder end."""


VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""How the names of videos end."""


def split_videos(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Separate videos from the names of images; a pattern stands for the videos it matches.

    Raises:
        LabkitError: a pattern without a match.
    """
    videos: dict[str, Path] = {}
    others = []
    for name in names:
        if Path(name).suffix.lower() not in VIDEOS or Path(name).is_dir():
            others.append(name)
            continue
        for path in _expand(name):
            videos.setdefault(os.path.realpath(path), path)
    return list(videos.values()), others


def find_images(names: Sequence[str | Path]) -> list[Path]:
    """The files that are named, each once.

    A folder stands for the images in it (not in its subfolders) in the order of their names, a
    pattern such as ``photos/*.jpg`` or ``photos/**/*.jpg`` for what it matches. Hidden files count
    only when they are named themselves.

    Raises:
        LabkitError: a folder without images, or a pattern without a match.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _expand(str(name)):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _images_in(path)
    if os.path.lexists(path) or not glob.has_magic(name):
        return [path]  # a file that is missing is refused when it is read
    # Not Path.glob, which does not leave hidden files out, as shells do.
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    # As if a shell had written them out; "**" matches folders whose images are matched too.
    folders = [] if files else [match for match in matches if match.is_dir()]
    if not files and not folders:
        raise LabkitError(f"{name}: no file matches this pattern")
    return files + [image for folder in folders for image in _images_in(folder)]


def _images_in(folder: Path) -> list[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise LabkitError(f"{folder}: cannot be read: {error.strerror}") from None
    images = [
        path
        for path in inside
        if path.suffix.lower() in IMAGES and not path.name.startswith(".") and path.is_file()
    ]
    if not images:
        video = next((path for path in inside if path.suffix.lower() in VIDEOS), None)
        raise LabkitError(
            f"{folder}: no image in this folder ({', '.join(IMAGES)}); "
            + (
                f"videos are named themselves: '{folder}/*{video.suffix}'"
                if video
                else f"for those in its subfolders, say '{folder}/**/*.jpg'"
            )
        )
    return images
